"""Validation sweeps: held-out prompts as tickets of their own, outside admission and ledger, never trained on.

before   at version 0 of a fresh run, ahead of every training ticket: the only sweep that training waits for
between  every N versions, only with the setting `sampled`
after    when the learner has made its last version
"""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import dataclass, field

from ...common.config.sections import ValidationConfig
from ...common.types import Group, Prompt, Sampling, Ticket, TicketKind, ValidationScore, ValidationSetting
from ..journal.records import SweepRecord
from ..tickets.counters import Counters
from ..tickets.group_checks import group_defect, version_defect
from ..tickets.store import MAX_ATTEMPTS, ticket_seed


@dataclass(slots=True)
class Sweep:
    """One sweep under way, in one sampling setting."""

    version: int
    setting: ValidationSetting
    sampling: Sampling
    queue: deque[tuple[Prompt, int]]  # prompts to be issued, with their attempt
    uids: set[str]  # of all its prompts
    blocks: bool  # whether training waits for it
    leased: dict[int, tuple[Prompt, int]] = field(default_factory=dict)  # ordinal -> (prompt, attempt)
    rewards: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))  # by "domain/task"
    versions: set[int] = field(default_factory=set)  # that sampled its tokens

    @property
    def done(self) -> bool:
        return not self.queue and not self.leased


class Validation:
    """Sweeps in order of their start, and the scores of those that ended."""

    def __init__(
        self,
        cfg: ValidationConfig,
        heldout: list[Prompt],
        seed: int,
        lease_s: float,
        counters: Counters,
        *,
        model_ids: int | None,
    ) -> None:
        """`model_ids`: number of token ids that the model knows; None: unknown."""
        self._model_ids = model_ids
        self._cfg, self._heldout, self._seed, self._lease_s = cfg, heldout, seed, lease_s
        self._counters = counters
        self._sweeps: list[Sweep] = []
        # of the run, in the order in which their sweeps ended
        self.scores: list[ValidationScore] = []
        # number of scores, from the first on, that went out with a batch
        self.reported = 0
        # since the last `take_changed`
        self._changed = False

    @property
    def blocks_training(self) -> bool:
        """Whether the sweep before the first step is under way."""
        return any(sweep.blocks for sweep in self._sweeps)

    @property
    def idle(self) -> bool:
        """Whether no sweep is under way."""
        return not self._sweeps

    def start_whole(self, version: int, *, blocks: bool) -> None:
        """Start a sweep of every prompt, sampled and (if the configuration says so) greedily, unless it was scored already.

        A sweep of a few prompts that is under way for this version is extended to all of them.
        """
        settings = [ValidationSetting.sampled, ValidationSetting.greedy] if self._cfg.greedy else [ValidationSetting.sampled]
        for setting in settings:
            self._start(version, setting, self._heldout, blocks=blocks)

    def maybe_start_between(self, version: int) -> None:
        """Start a sampled sweep when one is due at `version`; while another one is under way it is skipped, and counted."""
        if self._cfg.every == 0 or version == 0 or version % self._cfg.every != 0 or not self._heldout:
            return
        if self._sweeps:
            self._counters.count("validation/skipped_sweeps")
            return
        self._start(version, ValidationSetting.sampled, self._few_per_task(), blocks=False)

    def _few_per_task(self) -> list[Prompt]:
        """The first `validation.prompts` of every task, or all."""
        taken: dict[str, int] = defaultdict(int)
        few: list[Prompt] = []
        for prompt in self._heldout:
            task = _task(prompt)
            if self._cfg.prompts == 0 or taken[task] < self._cfg.prompts:
                taken[task] += 1
                few.append(prompt)
        return few

    def _start(self, version: int, setting: ValidationSetting, prompts: list[Prompt], *, blocks: bool) -> None:
        if not prompts or self._is_scored(version, setting, prompts):
            return
        self._changed = True
        running = next((sweep for sweep in self._sweeps if (sweep.version, sweep.setting) == (version, setting)), None)
        if running is not None:
            missing = [prompt for prompt in prompts if prompt.uid not in running.uids]
            running.queue.extend((prompt, 0) for prompt in missing)
            running.uids |= {prompt.uid for prompt in missing}
            return
        greedy = setting == ValidationSetting.greedy
        sampling = Sampling(
            n=1 if greedy else self._cfg.n,
            temperature=0.0 if greedy else self._cfg.temperature,
            top_p=1.0 if greedy else self._cfg.top_p,
            top_k=0 if greedy else self._cfg.top_k,
            min_p=0.0 if greedy else self._cfg.min_p,
            stop=tuple(self._cfg.stop),
            max_tokens=self._cfg.max_tokens,
        )
        queue = deque((prompt, 0) for prompt in prompts)
        uids = {prompt.uid for prompt in prompts}
        self._sweeps.append(Sweep(version=version, setting=setting, sampling=sampling, queue=queue, uids=uids, blocks=blocks))

    def _is_scored(self, version: int, setting: ValidationSetting, prompts: list[Prompt]) -> bool:
        """Whether a sweep of these prompts has ended; a sweep of a few prompts does not count for all of them."""
        few = len(self._few_per_task())
        # the number of rollouts of a sweep that does not count
        most = few * self._cfg.n if setting == ValidationSetting.sampled and len(prompts) > few else 0
        return any((s.version, s.setting) == (version, setting) and s.num_rollouts > most for s in self.scores)

    def wanted(self, actor_version: int) -> Sampling | None:
        """The sampling of the next validation ticket for an actor of this version; None when there is no ticket for it."""
        sweep = self._next_sweep(actor_version)
        return None if sweep is None else sweep.sampling

    def _next_sweep(self, actor_version: int) -> Sweep | None:
        return next((sweep for sweep in self._sweeps if sweep.queue and sweep.version <= actor_version), None)

    def issue(self, ordinal: int, generation: int, actor_version: int) -> Ticket:
        """Issue the ticket that `wanted` described."""
        sweep = self._next_sweep(actor_version)
        assert sweep is not None, "issue() without wanted()"
        prompt, attempt = sweep.queue.popleft()
        self._changed = True
        sweep.leased[ordinal] = (prompt, attempt)
        return Ticket(
            ordinal=ordinal,
            kind=TicketKind.validation,
            prompt=prompt,
            sampling=sweep.sampling,
            seed=ticket_seed(self._seed, ordinal),
            generation=generation,
            version=actor_version,
            lease_s=self._lease_s,
            setting=sweep.setting,
        )

    def take_group(self, group: Group, oldest: int, newest: int) -> str:
        """Take the group of a leased validation ticket, whose tokens must be of versions `oldest` to `newest`.

        Returns the reason why it cannot be used (its prompt is then issued again), or an empty text.
        """
        defect = group_defect(group, self._model_ids) or version_defect(group, oldest, newest)
        if defect is not None:
            self._counters.count(f"buffer/flawed_{defect.kind}")
            self.fail_ticket(group.ordinal)
            return defect.why
        rewards = [rollout.verdict.reward for rollout in group.rollouts if rollout.verdict.reward is not None]
        if not rewards:
            self.fail_ticket(group.ordinal)
            return "no rollout has a reward"
        sweep = self._holder(group.ordinal)
        prompt, _ = sweep.leased.pop(group.ordinal)
        self._changed = True
        sweep.rewards[_task(prompt)] += rewards
        sweep.versions |= {span.version for rollout in group.rollouts for span in rollout.spans}
        self._maybe_end(sweep)
        return ""

    def expects(self, ordinal: int) -> bool:
        """Whether a sweep under way has leased this ticket."""
        return any(ordinal in sweep.leased for sweep in self._sweeps)

    def fail_ticket(self, ordinal: int) -> None:
        """A leased ticket yields no group: its prompt is issued again, at most MAX_ATTEMPTS times in all."""
        sweep = self._holder(ordinal)
        prompt, attempt = sweep.leased.pop(ordinal)
        self._changed = True
        if attempt + 1 < MAX_ATTEMPTS:
            sweep.queue.append((prompt, attempt + 1))
        else:
            self._counters.count("validation/prompts_given_up")
        self._maybe_end(sweep)

    def _holder(self, ordinal: int) -> Sweep:
        return next(sweep for sweep in self._sweeps if ordinal in sweep.leased)

    def _maybe_end(self, sweep: Sweep) -> None:
        if not sweep.done:
            return
        self._sweeps.remove(sweep)
        self._changed = True
        if not sweep.rewards:  # a score of 0 without a measurement would look like a collapse
            self._counters.count("validation/empty_sweeps")
            return
        self._forget(sweep.version, sweep.setting)
        by_task = {task: sum(rewards) / len(rewards) for task, rewards in sorted(sweep.rewards.items())}
        self.scores.append(
            ValidationScore(
                version=sweep.version,
                versions=sorted(sweep.versions),
                setting=sweep.setting,
                by_task=by_task,
                mean=sum(by_task.values()) / len(by_task),
                num_rollouts=sum(map(len, sweep.rewards.values())),
            )
        )

    def take_changed(self) -> bool:
        """Whether sweeps or scores changed since the last call, for the journal."""
        changed, self._changed = self._changed, False
        return changed

    def take_unreported(self) -> list[ValidationScore]:
        """The scores since the last call."""
        unreported = self.scores[self.reported :]
        self.reported = len(self.scores)
        return unreported

    def _forget(self, version: int, setting: ValidationSetting) -> None:
        """Drop the score of a sweep of a few prompts: that of all prompts takes its place."""
        for index, score in enumerate(self.scores):
            if (score.version, score.setting) == (version, setting):
                del self.scores[index]
                if index < self.reported:
                    self.reported -= 1
                return

    def rewind(self, version: int, reported: int) -> None:
        """A generation begins at `version`: drop all sweeps, and the scores of later versions.

        `reported`: how many the learner of the new one was given; they ended before any of those that are dropped.
        """
        self._sweeps.clear()
        self._changed = True
        self.scores = [score for score in self.scores if score.version <= version]
        self.reported = min(reported, len(self.scores))

    def records(self) -> list[SweepRecord]:
        """The sweeps under way, for the journal."""
        return [
            SweepRecord(
                version=sweep.version,
                setting=sweep.setting,
                sampling=sweep.sampling,
                blocks=sweep.blocks,
                queue=[(prompt.uid, attempt) for prompt, attempt in sweep.queue],
                leased={ordinal: (prompt.uid, attempt) for ordinal, (prompt, attempt) in sweep.leased.items()},
                uids=sorted(sweep.uids),
                rewards=dict(sweep.rewards),
                versions=sorted(sweep.versions),
            )
            for sweep in self._sweeps
        ]

    def restore(self, sweeps: list[SweepRecord], scores: list[ValidationScore], reported: int) -> None:
        """Become what was recorded; prompts that the configuration no longer lists are left out."""
        prompts = {prompt.uid: prompt for prompt in self._heldout}
        self._sweeps = [
            Sweep(
                version=record.version,
                setting=record.setting,
                sampling=record.sampling,
                queue=deque((prompts[uid], attempt) for uid, attempt in record.queue if uid in prompts),
                uids=set(record.uids) & set(prompts),
                blocks=record.blocks,
                leased={o: (prompts[uid], attempt) for o, (uid, attempt) in record.leased.items() if uid in prompts},
                rewards=defaultdict(list, record.rewards),
                versions=set(record.versions),
            )
            for record in sweeps
        ]
        self.scores, self.reported = list(scores), reported
        for sweep in list(self._sweeps):
            self._maybe_end(sweep)


def _task(prompt: Prompt) -> str:
    return f"{prompt.domain}/{prompt.task}"

"""The training tickets of a run from issue to trained: ledger, staleness contract, filter and prompts change together here.

    issue -> take_group -> try_take -> step_done      the life of a ticket that is trained
             fail_ticket                              its prompt is issued again, as another ticket
             hand_over -> lease_again                 its actor left, another one goes on with it
    continue_at | begin_generation                    a learner arrives

A learner that restarts from a checkpoint continues when it is of the store's generation and every later batch is recorded:
those steps are repeated with the very same batches. Any other learner begins a generation: every untrained ticket becomes
stale, and the number of the generation fences off groups that still arrive for one of them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from enum import StrEnum

import numpy as np

from ...common.config.sections import BufferConfig
from ...common.config.trees import largest_eta
from ...common.errors import DataError
from ...common.types import Batch, Group, StartedRollout, Ticket, TicketKind, TicketState
from ..journal.records import BufferState, TicketRecord
from .ages import GroupAges
from .api import PromptSource
from .counters import Counters
from .filters import Judgement, SignalFilter
from .group_checks import Defect, group_defect, handover_defect, sampled_since, version_defect
from .ledger import Entry, Ledger
from .look_ahead import LookAhead
from .retries import Retries, Retry
from .settings import TicketSettings
from .staleness import StalenessContract
from .survival import Survival

# Tickets for one prompt. A prompt that fails more often is left out: it would hold up the run for ever.
MAX_ATTEMPTS = 5


class Outcome(StrEnum):
    """The fate of a group that was asked for."""

    stored = "stored"
    filtered = "filtered"
    stale = "stale"
    failed = "failed"


class Store:
    """The training tickets of the current generation."""

    def __init__(
        self,
        cfg: BufferConfig,
        stages: Sequence[TicketSettings],
        prompts: PromptSource,
        counters: Counters,
        *,
        seed: int,
        steps: int,
        model_ids: int | None,
    ) -> None:
        """`seed` is the run's; `steps` is the most that the run can take, over all `stages`.

        `model_ids`: number of token ids that the model knows; None: unknown.
        """
        self.prompts, self.counters = prompts, counters
        self.batch_groups = cfg.batch_groups
        # of the learner's history; 0 before the first learner
        self.generation = 0
        # of the learner
        self.version = 0
        self.ledger = Ledger()
        # prompts to be issued again, each with the number of its next attempt
        self.retries = Retries()
        # the next prompts: those, then the source's
        self.look_ahead = LookAhead(prompts, self.retries)
        self.contract = _contract(cfg, steps)
        self.ages = GroupAges(cfg.straggler, self.contract.maximum)
        self.filter = SignalFilter(enabled=cfg.dynamic_sampling, limit=int(cfg.max_filtered * cfg.batch_groups))
        self.survival = Survival()
        self._seed, self._lease_s, self._model_ids = seed, cfg.lease_s, model_ids
        # the next batch to be formed asks for a reset of the reference
        self.reset_requested = False
        self.stages = stages
        self.enter(0)

    @property
    def head(self) -> int:
        """The version of the next batch to be formed; recorded batches lie below it."""
        return self.contract.head

    # --- stages -----------------------------------------------------------------------------------

    def enter(self, stage: int) -> None:
        """Issue tickets as this stage says from now on; tickets under way keep their settings."""
        self.stage = stage
        self.sampling = self.stages[stage].sampling
        self.look_ahead.weigh(self.stages[stage].weights)

    def enter_later(self, stage: int) -> None:
        """Enter the stage that the learner names, unless it is an earlier one: a learner that repeats steps names those."""
        if not 0 <= stage < len(self.stages):
            self.counters.count("buffer/unknown_stages")
        elif stage > self.stage:
            self.enter(stage)

    # --- one ticket -------------------------------------------------------------------------------

    def admits(self, version: int) -> bool:
        """Whether a ticket may be issued to an actor that holds `version` of this generation."""
        return self.contract.admits(version, self.version, self.ledger.untrained)

    def refuses_for_eta(self, version: int) -> bool:
        """Whether a ticket is not admitted to an actor that holds `version`, and would be if eta were larger by one."""
        return self.contract.refuses_for_eta(version, self.version, self.ledger.untrained)

    @property
    def waits_for_deadlines(self) -> bool:
        """Whether enough groups for a batch are stored, so that it is only others, which are due, that a batch waits for."""
        return self.ledger.counts[TicketState.stored] >= self.batch_groups

    def issue(self, ordinal: int, version: int, choice: int = 0) -> Ticket:
        """Issue and lease a ticket to an actor that holds `version`, for prompt `choice` of those that `look_ahead` offers."""
        prompt, attempt = self.look_ahead.take(choice)
        ticket = Ticket(
            ordinal=ordinal,
            kind=TicketKind.train,
            prompt=prompt,
            sampling=self.sampling,
            seed=ticket_seed(self._seed, ordinal),
            generation=self.generation,
            version=version,
            eta=self.contract.eta,
            lease_s=self._lease_s,
        )
        self.ledger.issue(ticket, attempt)
        self.contract.issue(ordinal, version)
        self.ledger.move(ordinal, TicketState.leased)
        return ticket

    def take_group(self, group: Group, ticket: Ticket, frame: bytes = b"") -> tuple[Outcome, str]:
        """Take the group of a leased ticket; returns what became of it, and why.

        `frame` is the message that the group came in, for the journal.
        """
        defect = self._defect(group, ticket)
        if defect is not None:
            self.counters.count("buffer/failed_groups")
            self.counters.count(f"buffer/flawed_{defect.kind}")
            self.fail_ticket(group.ordinal)
            return Outcome.failed, defect.why
        version = self.ages.deadline_version(group)
        if not self.contract.in_time(group.ordinal, version):
            self.contract.drop(group.ordinal)
            self._evict(group.ordinal, group)
            return Outcome.stale, f"its tokens are of version {version}, the next batch is of version {self.head}"
        judgement = self.filter.judge(group)
        if judgement is Judgement.drop:
            self.counters.count("buffer/filtered")
            self.contract.drop(group.ordinal)
            self.ledger.move(group.ordinal, TicketState.filtered)
            return Outcome.filtered, "its rewards carry no signal"
        if judgement is Judgement.bypass:
            self.counters.count("buffer/bypassed")
        self.ledger.store(group, frame)
        self.contract.store(group.ordinal, version)
        return Outcome.stored, ""

    def _defect(self, group: Group, ticket: Ticket) -> Defect | None:
        """Why a group cannot be trained, regardless of its age."""
        if len(group.rollouts) < 2:
            return Defect("few", f"{len(group.rollouts)} rollouts are left, a group needs 2")
        if any(rollout.verdict.reward is None for rollout in group.rollouts):
            return Defect("unrewarded", "a rollout has no reward")
        return group_defect(group, self._model_ids) or version_defect(group, ticket.version, self.head)

    def fail_ticket(self, ordinal: int) -> None:
        """A ticket yields no group: its prompt is issued again, as another ticket, before any new prompt."""
        self.contract.drop(ordinal)
        entry = self.ledger.move(ordinal, TicketState.failed)
        if entry.attempt + 1 < MAX_ATTEMPTS:
            self.retries.add(entry.ticket.prompt, entry.attempt + 1)
        else:
            self.counters.count("buffer/prompts_given_up")

    def handover_defect(self, started: Sequence[StartedRollout], ticket: Ticket, actor: str) -> Defect | None:
        """Why no other actor can go on with what `actor` hands over of a ticket, of either kind."""
        return handover_defect(started, ticket, actor, self.head, self._model_ids)

    def hand_over(self, ticket: Ticket) -> None:
        """The actor of a leased ticket left: another one will go on with what `ticket` holds now."""
        self.ledger.move(ticket.ordinal, TicketState.issued).ticket = ticket

    def lease_again(self, ordinal: int) -> None:
        """Another actor goes on with a ticket that was handed over."""
        self.ledger.move(ordinal, TicketState.leased)

    def is_due(self, ordinal: int) -> bool:
        """Whether the next batch must hold this ticket, or it is too late for it."""
        return self.contract.is_due(ordinal)

    def distrust(self, actor: str, version: int) -> None:
        """Fail the stored groups with tokens that an actor sampled under `version` or later: its weights were wrong then."""
        for entry in self.ledger.entries():
            group = entry.group
            if group is not None and sampled_since(group.rollouts, actor, version, finished_by=group.actor):
                self.fail_ticket(group.ordinal)

    def _evict(self, ordinal: int, group: Group) -> None:
        self.counters.count("buffer/evicted")
        self.survival.record(group, survived=False)
        self.ledger.move(ordinal, TicketState.stale)

    # --- batches ----------------------------------------------------------------------------------

    def try_take(self) -> Batch | None:
        """Form the batch of version `head` if the contract allows one. The caller records it before it is sent."""
        chosen = self.contract.choose()
        if chosen is None:
            return None
        version = self.head
        for ordinal in self.contract.take(chosen):
            late = self.ledger.find(ordinal)
            assert late is not None
            assert late.group is not None
            self._evict(ordinal, late.group)
        groups: list[Group] = []
        for ordinal in chosen:
            group = self.ledger.move(ordinal, TicketState.batched).group
            assert group is not None
            self.survival.record(group, survived=True)
            groups.append(group)
        metrics = self.ages.of_batch(groups, version)
        metrics |= {f"buffer/ledger_{state}": float(count) for state, count in self.ledger.as_dict().items()}
        metrics |= self.survival.rates()
        self.filter.next_step()
        batch = Batch(
            generation=self.generation,
            version=version,
            groups=groups,
            metrics=metrics,
            reset_requested=self.reset_requested,
        )
        self.reset_requested = False
        return batch

    def request_reset(self) -> int | None:
        """Let the next batch ask for a reset of the reference; returns its version, None when no batch is left."""
        if self.head >= self.contract.steps:
            return None
        self.reset_requested = True
        return self.head

    def step_done(self) -> None:
        """The learner made version + 1 of the batch that it has."""
        self.ledger.shift(TicketState.batched, TicketState.trained, self.batch_groups)
        self.version += 1

    # --- a learner arrives, or is done ------------------------------------------------------------

    def can_continue(self, version: int, generation: int, recorded: Collection[int]) -> bool:
        """Whether a learner with this checkpoint continues here. `recorded`: versions of the batches in the journal."""
        if generation != self.generation or generation < 1 or not 0 <= version <= self.head:
            return False
        return all(needed in recorded for needed in range(version, self.head))

    def continue_at(self, version: int, stage: int) -> None:
        """The learner stands at `version` of this generation: it repeats the steps after it and made those before it."""
        repeated = (self.version - version) * self.batch_groups
        if repeated > 0:
            self.ledger.shift(TicketState.trained, TicketState.batched, repeated)
        elif repeated < 0:
            self.ledger.shift(TicketState.batched, TicketState.trained, -repeated)
        self.version = version
        self.enter_later(stage)

    def begin_generation(self, version: int, generation: int, stage: int, state: BufferState | None) -> None:
        """Begin a generation at `version` and in `stage`; every ticket that is not trained by then becomes stale.

        `generation` is that of the learner's checkpoint, `state` what was recorded with it: prompts continue from there.
        """
        self._drop_untrained()
        surplus = self.ledger.counts[TicketState.trained] - version * self.batch_groups
        if surplus >= 0:
            self.ledger.shift(TicketState.trained, TicketState.stale, surplus)
        else:
            self.ledger.adopt(-surplus)
        self.retries.clear()
        if state is not None:
            self._resume_prompts(state)
        self.enter(stage)
        self.contract.clear(version)
        self.generation = max(self.generation, generation, 0) + 1
        self.version = version

    def mark_untrained_stale(self) -> None:
        """The learner made its last version: no ticket that is untrained now will be trained."""
        self._drop_untrained()
        self.contract.clear(self.version)

    def _drop_untrained(self) -> None:
        for entry in self.ledger.entries():
            self.ledger.move(entry.ticket.ordinal, TicketState.stale)
        self.ledger.shift(TicketState.batched, TicketState.stale, self.ledger.counts[TicketState.batched])

    # --- a buffer restarts ------------------------------------------------------------------------

    def restore(
        self,
        state: BufferState,
        tickets: Sequence[TicketRecord],
        groups: Mapping[int, Group],
        retries: Mapping[int, Retry],
    ) -> None:
        """Become what was recorded: `tickets` under way, the stored `groups` by ordinal, and `retries` by number.

        Raises DataError when the configuration does not have the stage or the prompt sources of `state`; LedgerError for
        records that do not add up.
        """
        self._check_stage(state)
        self.generation, self.version = state.generation, state.version
        self.reset_requested = state.reset_requested
        self.filter.restore(state.filtered)
        self.counters.restore(state.counters)
        self.contract.clear(state.head)
        entries: list[Entry] = []
        for record in tickets:
            ordinal, group = record.ticket.ordinal, groups.get(record.ticket.ordinal)
            self.contract.issue(ordinal, record.ticket.version, record.ticket.eta)
            if group is not None:
                self.contract.store(ordinal, self.ages.deadline_version(group))
            state_of_ticket = TicketState.issued if record.waits else TicketState.leased
            state_of_ticket = state_of_ticket if group is None else TicketState.stored
            entries.append(Entry(record.ticket, record.attempt, state_of_ticket, group))
        self.ledger.restore({TicketState(name): count for name, count in state.ledger.items()}, entries)
        self.check()
        self._resume_prompts(state)
        # a journal of format 2 has them in its state
        if not state.retries:
            self.retries.restore(retries, self.prompts.find)

    def _resume_prompts(self, state: BufferState) -> None:
        """Draw prompts as at `state`; first those whose tickets it knew as untrained."""
        self._check_stage(state)
        self.enter(state.stage)
        self.look_ahead.restore(state.cursor, state.skips)
        self.retries.clear()
        for uid, attempt in [*state.under_way, *state.retries]:
            prompt = self.prompts.find(uid)
            if prompt is not None:
                self.retries.add(prompt, attempt)

    def _check_stage(self, state: BufferState) -> None:
        if state.stage >= len(self.stages):
            raise DataError(
                f"the run was recorded in stage {state.stage}, the configuration has {len(self.stages)} (counted from 0); "
                "restore stages, or start a run of another name"
            )

    def check(self) -> None:
        """Raise LedgerError unless the ledger balances and agrees with the learner's version."""
        self.ledger.check(self.version * self.batch_groups)


def _contract(cfg: BufferConfig, steps: int) -> StalenessContract:
    return StalenessContract(
        eta=cfg.eta,
        batch=cfg.batch_groups,
        steps=steps,
        straggler=cfg.straggler,
        preference=cfg.preference,
        maximum=largest_eta(cfg),
    )


def ticket_seed(run_seed: int, ordinal: int) -> int:
    """The sampling seed of a ticket: a function of the run's seed and its ordinal alone."""
    return int(np.random.SeedSequence([run_seed, ordinal]).generate_state(1)[0]) & 0x7FFFFFFF

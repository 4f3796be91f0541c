"""From the rollouts of each prompt to the scores of a model: by task, by domain, and over all.

groups of a prompt --outcome_of--> PromptOutcome --scope_scores--> ScopeScore of each scope, with intervals over prompts
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ...common.types import FinishReason, Group, Prompt, Rollout
from .estimators import maj_at_k, pass_at_k
from .intervals import Estimate, difference, estimate
from .votes import RIGHT, VOTING, is_right, vote_of

OVERALL = "mean over tasks"
Decode = Callable[[Rollout], str]  # the text that the verifier read


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptOutcome:
    """What the judged rollouts of one prompt came to. `votes`: how many for each answer; None where no vote can be counted."""

    uid: str
    domain: str
    task: str  # "domain/task"
    rewards: tuple[float, ...]
    votes: Mapping[str, int] | None = None
    tokens: int = 0  # of all rollouts
    cut_off: int = 0  # rollouts that ended at the limit
    unjudged: int = 0  # rollouts without a reward, which count nowhere

    @property
    def num(self) -> int:
        return len(self.rewards)

    @property
    def mean_reward(self) -> float:
        return sum(self.rewards) / self.num

    @property
    def correct(self) -> int:
        return sum(map(is_right, self.rewards))

    def pass_at(self, k: int) -> float:
        """See `pass_at_k`; k is at most `num`."""
        return pass_at_k(self.num, self.correct, k)

    def maj_at(self, k: int) -> float:
        """See `maj_at_k`; only with votes."""
        assert self.votes is not None, "nothing to vote on"
        wrong = [count for answer, count in self.votes.items() if answer != RIGHT]
        return maj_at_k(self.num, self.votes.get(RIGHT, 0), wrong, k)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScopeScore:
    """The scores of one model on one scope: a task ("math/aime"), a domain ("math"), or OVERALL.

    A domain's score is the mean over its tasks, as OVERALL is over all tasks. A prompt that lost rollouts has no part in
    a k for which it has too few. maj_at is empty where a task has no answers to vote on.
    """

    scope: str
    num_prompts: int
    num_rollouts: int
    reward: Estimate  # mean reward: mean@k for any k
    pass_at: dict[int, Estimate] = field(default_factory=dict)
    maj_at: dict[int, Estimate] = field(default_factory=dict)
    tokens: float  # mean length of a rollout
    cut_off: float  # share of rollouts that ended at the limit
    unjudged: int  # rollouts without a reward


Outcomes = Mapping[str, PromptOutcome]  # by uid


def outcome_of(prompt: Prompt, groups: Iterable[Group], decode: Decode) -> PromptOutcome | None:
    """The outcome of a prompt from its groups; None if no rollout has a reward."""
    rewards: list[float] = []
    votes: Counter[str] = Counter()
    tokens = cut_off = unjudged = 0
    for group in groups:
        unjudged += group.dropped_rollouts
        for rollout in group.rollouts:
            reward, is_cut = rollout.verdict.reward, rollout.finish_reason is FinishReason.length
            assert reward is not None, "an actor leaves out rollouts without a reward"
            rewards.append(reward)
            tokens += rollout.num_tokens
            cut_off += is_cut
            if prompt.verifier in VOTING:
                # the text of a right answer is not needed, and takes long to decode
                vote = RIGHT if is_right(reward) else vote_of(prompt, decode(rollout), cut_off=is_cut)
                votes.update([] if vote is None else [vote])
    if not rewards:
        return None
    return PromptOutcome(
        uid=prompt.uid,
        domain=prompt.domain,
        task=f"{prompt.domain}/{prompt.task}",
        rewards=tuple(rewards),
        votes=votes if prompt.verifier in VOTING else None,
        tokens=tokens,
        cut_off=cut_off,
        unjudged=unjudged,
    )


def scope_scores(outcomes: Outcomes, ks: Sequence[int]) -> list[ScopeScore]:
    """The scores of a model: each domain, followed by its tasks if there are several, then OVERALL of several domains."""
    return [_score(scope, tasks, ks) for scope, tasks in _scopes(outcomes).items()]


def differences_of(first: Outcomes, second: Outcomes) -> dict[str, Estimate]:
    """The mean reward of the second model minus that of the first, by scope, on the prompts that both have a reward for."""
    shared = {uid: outcome for uid, outcome in second.items() if uid in first}
    return {
        scope: difference([([first[o.uid].mean_reward for o in task], [o.mean_reward for o in task]) for task in tasks])
        for scope, tasks in _scopes(shared).items()
    }


Tasks = list[list[PromptOutcome]]


def _scopes(outcomes: Outcomes) -> dict[str, Tasks]:
    by_domain: dict[str, dict[str, list[PromptOutcome]]] = {}
    for outcome in outcomes.values():
        by_domain.setdefault(outcome.domain, {}).setdefault(outcome.task, []).append(outcome)
    scopes: dict[str, Tasks] = {}
    for domain, by_task in sorted(by_domain.items()):
        scopes[domain] = list(by_task.values())
        if len(by_task) > 1:
            scopes |= {task: [prompts] for task, prompts in sorted(by_task.items())}
    every = [prompts for by_task in by_domain.values() for prompts in by_task.values()]
    return scopes | ({OVERALL: every} if len(by_domain) > 1 else {})


def _score(scope: str, tasks: Tasks, ks: Sequence[int]) -> ScopeScore:
    prompts = [outcome for task in tasks for outcome in task]
    num_rollouts = sum(outcome.num for outcome in prompts)
    votes = all(outcome.votes is not None for outcome in prompts)
    enough = {k: [[outcome for outcome in task if outcome.num >= k] for task in tasks] for k in ks}
    enough = {k: each for k, each in enough.items() if all(each)}
    return ScopeScore(
        scope=scope,
        num_prompts=len(prompts),
        num_rollouts=num_rollouts,
        reward=estimate([[outcome.mean_reward for outcome in task] for task in tasks]),
        pass_at={k: estimate([[one.pass_at(k) for one in task] for task in each]) for k, each in enough.items()},
        maj_at={k: estimate([[one.maj_at(k) for one in task] for task in each]) for k, each in enough.items() if votes},
        tokens=sum(outcome.tokens for outcome in prompts) / num_rollouts,
        cut_off=sum(outcome.cut_off for outcome in prompts) / num_rollouts,
        unjudged=sum(outcome.unjudged for outcome in prompts),
    )

"""The result of an evaluation, model by model, and evaluation.json."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from .intervals import Estimate
from .scores import Outcomes, ScopeScore, differences_of, scope_scores
from .store import Asked


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated:
    """One model. `differences`: its mean reward minus that of the first model, by scope; empty for the first one."""

    name: str
    step: int | None
    scores: list[ScopeScore]
    differences: dict[str, Estimate]
    by_prompt: dict[str, float]  # mean reward by uid
    unjudged: int  # rollouts without a reward

    @classmethod
    def of(
        cls, name: str, step: int | None, outcomes: Outcomes, ks: Sequence[int], first: Outcomes, *, num_rollouts: int
    ) -> Evaluated:
        """`first`: the outcomes of the model that all others are compared with. `num_rollouts`: that were asked for."""
        return cls(
            name=name,
            step=step,
            scores=scope_scores(outcomes, ks),
            differences={} if outcomes is first else differences_of(first, outcomes),
            by_prompt={uid: outcome.mean_reward for uid, outcome in outcomes.items()},
            unjudged=num_rollouts - sum(outcome.num for outcome in outcomes.values()),
        )

    def score(self, scope: str) -> ScopeScore | None:
        return next((score for score in self.scores if score.scope == scope), None)


def scopes_of(results: Sequence[Evaluated]) -> list[str]:
    """Every scope that a model has a score for, in order."""
    return list(dict.fromkeys(score.scope for each in results for score in each.scores))


def encode_evaluation(results: Sequence[Evaluated], asked: Asked, n: int, left_out: Mapping[str, Mapping[str, int]]) -> str:
    """evaluation.json; every interval is one of 95 % over prompts."""
    settings = {name: value for name, value in asdict(asked).items() if name not in ("weights", "context", "dtype")}
    return json.dumps({"settings": {"n": n, **settings}, "left_out": left_out, "models": [asdict(each) for each in results]})

"""`prolong doctor --agreement`: where engine and learner part, from the embedding to the log-probabilities.

The learner's weights go to the engine twice, as a run sends them: as they are, and after every parameter has moved, so that
weights which an update does not reach show. Each time sampled tokens are compared under both, then one prompt layer by layer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from ...common.config.sections import Config
from ...common.errors import ProlongError
from ...learner.algorithm.agreement import ESS, GAP, KL, TOLERANCE, agreement_metrics, agreement_rows
from ..model_check import check_model, settle_dtype
from ..recipes import compose
from .pair import EnginePair, Stages

# by dtype: the relative difference, as root mean square over a stage's numbers, that rounding can explain
STAGE_TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1, "float16": 0.02}


@dataclass(frozen=True, slots=True)
class Apart:
    """How far the log-probabilities of sampled tokens are apart."""

    gap: float  # mean |difference|, in nats
    kl: float  # of sampler to learner, k3
    ess: float  # effective sample size, as a share
    tokens: int

    @classmethod
    def of(cls, log_ratios: np.ndarray) -> Apart:
        """The figures that the learner's check computes of a batch."""
        log_ratio = torch.from_numpy(log_ratios)
        rows = agreement_rows(log_ratio, torch.ones_like(log_ratio))
        found = agreement_metrics({name: float(row.sum()) for name, row in rows.items()})
        return cls(found[GAP], found[KL], found[ESS], len(log_ratios))

    def __str__(self) -> str:
        return f"{self.gap:.2e} nats apart on average, KL {self.kl:.1e}, ess {self.ess:.3f}, {self.tokens} tokens"


@dataclass(frozen=True, slots=True)
class Examination:
    """The result under one set of weights."""

    weights: str  # which
    apart: Apart | None = None
    # relative difference of each stage, in the order of the computation
    stages: dict[str, float] | None = None
    error: str = ""  # the engine refused the weights or died

    def first_apart(self, dtype: str) -> str | None:
        """The first stage that differs by more than rounding."""
        stages = self.stages or {}
        return next((stage for stage, value in stages.items() if not value <= STAGE_TOLERANCE[dtype]), None)

    def agrees(self, dtype: str) -> bool:
        return self.apart is not None and self.apart.gap <= TOLERANCE[dtype]


def stage_differences(stages: Stages) -> dict[str, float]:
    """|engine - learner| / |learner| of every stage, as root mean squares; the tokens that both have, from the end."""
    found = {}
    for stage, (theirs, ours) in stages.items():
        rows = min(len(theirs), len(ours))
        columns = min(theirs.shape[1], ours.shape[1])  # logits may be padded
        left, right = theirs[-rows:, :columns].astype(np.float64), ours[-rows:, :columns].astype(np.float64)
        found[stage] = float(np.linalg.norm(left - right) / max(np.linalg.norm(right), 1e-30))
    return found


async def examine_pair(cfg: Config, *, layers: bool = True) -> list[Examination]:
    """One examination for the first weights and one after an update. Raises: ProlongError when engine or model do not load."""
    pair = await EnginePair.start(cfg)
    try:
        found: list[Examination] = []
        for weights in ("first weights", "after an update"):
            if found:
                pair.shift_weights()
            try:
                await pair.publish()
                apart = Apart.of(pair.log_ratios(await pair.sample()))
                stages = stage_differences(await pair.stages()) if layers else {}
            except ProlongError as error:
                found.append(Examination(weights, error=str(error)))
                break
            found.append(Examination(weights, apart, stages))
        return found
    finally:
        await pair.close()


def report_lines(examinations: list[Examination], dtype: str) -> Iterator[str]:
    """The examinations in words, one line each and one for every stage."""
    for found in examinations:
        if found.error:
            yield f"FAIL  {found.weights}: {found.error}"
            continue
        yield f"{'ok  ' if found.agrees(dtype) else 'FAIL'}  {found.weights}: {found.apart}"
        first = found.first_apart(dtype)
        for stage, value in (found.stages or {}).items():
            yield f"        {stage:12s} differs by {value:.1e}{'   <- the first beyond rounding' if stage == first else ''}"
        if not found.stages:
            yield "        this engine does not show its layers: log-probabilities alone were compared"


def examine_model(recipe: str, overrides: list[str]) -> int:
    """`examine_agreement` of the model of a recipe. Raises: ProlongError."""
    cfg = compose(recipe, overrides)
    check_model(cfg)
    settle_dtype(cfg)
    return examine_agreement(cfg)


def examine_agreement(cfg: Config) -> int:
    """Print the examination of `cfg.model`; 0 when engine and learner agree, 2 when they do not."""
    examinations = asyncio.run(examine_pair(cfg))
    for line in report_lines(examinations, cfg.model.dtype):
        print(line)
    if all(found.agrees(cfg.model.dtype) for found in examinations):
        print(f"engine and learner agree on {cfg.model.path} in {cfg.model.dtype}")
        return 0
    print(f"engine and learner compute different policies: {verdict(examinations, cfg.model.dtype)}")
    return 2


def verdict(examinations: list[Examination], dtype: str) -> str:
    """What the examinations mean, for one that failed."""
    last = examinations[-1]
    if last.error:
        return f"the engine did not take its weights ({last.weights})"
    first = next(found for found in examinations if not found.agrees(dtype))
    stage = first.first_apart(dtype)
    if first is not examinations[0]:
        return (
            f"only after an update, first in {stage or 'none of the layers'}: the engine does not load all weights of an update"
        )
    if stage is None:
        return "the layers agree, so look at the head, or at documents that see each other in a packed row"
    return f"first in {stage}; its input agrees, so look at how that part is computed or loaded"

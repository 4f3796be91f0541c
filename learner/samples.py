"""From a batch to samples: advantages, token masks of the `mask` policy, and the global denominators of each update."""

from __future__ import annotations

import numpy as np

from ..common.config import Aggregation, Config, Straggler
from ..common.errors import StalenessViolation
from ..common.types import Batch, Rollout, float32_array, int32_array
from .advantages import group_advantages, rewards_of
from .packing import Sample


def check_staleness(batch: Batch, *, version: int, generation: int, eta: int, straggler: Straggler) -> None:
    """Raise StalenessViolation unless this is the batch of `version` and, but for `mask`, no token is older than eta."""
    if (batch.version, batch.generation) != (version, generation):
        raise StalenessViolation(
            f"batch of version {batch.version}, generation {batch.generation}: expected {version}, generation {generation}"
        )
    for group in batch.groups:
        if group.generation != generation:
            raise StalenessViolation(f"group {group.ordinal} is of generation {group.generation}: expected {generation}")
        newest = max(span.version for rollout in group.rollouts for span in rollout.spans)
        if newest > version:
            raise StalenessViolation(
                f"group {group.ordinal} claims version {newest}, which the learner at {version} never published"
            )
        if straggler is not Straggler.mask and version - group.oldest_version > eta:
            raise StalenessViolation(
                f"group {group.ordinal} has tokens of version {group.oldest_version} at version {version}: buffer.eta = {eta} "
                f"allows {version - eta} or newer; the buffer broke its contract"
            )


def fresh_tokens(rollout: Rollout, oldest: int) -> np.ndarray:
    """[T] bool: True where the token's version is `oldest` or newer."""
    keep = np.zeros(rollout.num_tokens, dtype=bool)
    for span in rollout.spans:
        keep[span.start : span.end] = span.version >= oldest
    return keep


def samples_of(batch: Batch, cfg: Config) -> list[list[Sample]]:
    """The batch's rollouts, one list per update (groups in order, split evenly), with their token weights set."""
    oldest = batch.version - cfg.buffer.eta if cfg.buffer.straggler is Straggler.mask else -1
    groups = []
    for group in batch.groups:
        prompt = int32_array(group.prompt.token_ids)
        advantages = group_advantages(rewards_of(group), cfg.objective.advantage)
        groups.append(
            [
                Sample(
                    group=group.ordinal,
                    prompt=prompt,
                    completion=int32_array(rollout.token_ids),
                    behaviour=float32_array(rollout.behaviour_logprobs),
                    keep=fresh_tokens(rollout, oldest),
                    advantage=float(advantage),
                )
                for rollout, advantage in zip(group.rollouts, advantages, strict=True)
            ]
        )
    updates = min(cfg.learner.minibatches, len(groups))
    parts = [[sample for i in part for sample in groups[i]] for part in np.array_split(np.arange(len(groups)), updates)]
    for part in parts:
        set_weights(part, cfg.objective.aggregation)
    return parts


def set_weights(samples: list[Sample], aggregation: Aggregation) -> None:
    """Token weights of one update, over all ranks and micro-batches, from token counts before any mask; they sum to 1.

    token_mean: 1 / tokens. sequence_mean: 1 / (rollouts * tokens of the rollout).
    """
    tokens = sum(len(sample.completion) for sample in samples)
    for sample in samples:
        whole = tokens if aggregation is Aggregation.token_mean else len(samples) * len(sample.completion)
        sample.weight = 1.0 / whole

"""From a batch to samples: rewards, advantages, token masks of `straggler=mask`, and the global denominators of each update.

check_staleness -> samples_of: rewards -> advantages over the batch -> updates -> token weights of each update
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ...common.config.algorithm import ObjectiveConfig, RewardsConfig
from ...common.config.choices import Advantage, Aggregation, Straggler
from ...common.errors import StalenessViolation
from ...common.types import Batch, Group, Rollout, float32_array, int32_array
from ..batches.packing import Sample
from .advantages import batch_advantages
from .agreement import comparable_tokens
from .rewards import shaped_rewards_of


def check_staleness(batch: Batch, *, version: int, generation: int, eta: int, straggler: Straggler) -> None:
    """Raise StalenessViolation unless this is the batch of `version` and no token is older than its group's ticket allows.

    No ticket may allow more than `eta`. With straggler `mask` older tokens are allowed: they will be context only.
    """
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
        allowed = group.allowed_staleness(eta)
        if allowed > eta:
            raise StalenessViolation(
                f"the ticket of group {group.ordinal} allows a staleness of {allowed}, this run allows {eta} at most"
            )
        if straggler is not Straggler.mask and version - group.oldest_version > allowed:
            raise StalenessViolation(
                f"group {group.ordinal} has tokens of version {group.oldest_version} at version {version}: eta = {allowed} of "
                f"its ticket allows {version - allowed} or newer; the buffer broke its contract"
            )


def token_staleness(rollout: Rollout, version: int) -> np.ndarray:
    """[T] int32: by how many versions each token's sampler was older than `version`."""
    staleness = np.zeros(rollout.num_tokens, dtype=np.int32)
    for span in rollout.spans:
        staleness[span.start : span.end] = version - span.version
    return staleness


def samples_of(
    batch: Batch,
    *,
    objective: ObjectiveConfig,
    rewards: RewardsConfig,
    minibatches: int,
    oldest: int | None = None,
    kv_kept: bool = False,
) -> list[list[Sample]]:
    """Turn the batch's rollouts into samples, one list per update, with advantages and token weights set.

    Groups keep their order and are split evenly between the updates, of which there are `minibatches`, or one per group if
    that is less. Tokens older than `oldest` versions, or than their group's ticket allows, are context only; None: no token is.
    kv_kept: engines keep their cache when new weights arrive.
    """
    groups = [_group_samples(group, batch.version, rewards, oldest, kv_kept) for group in batch.groups]
    _set_advantages(groups, objective.advantage)
    shares = np.array_split(np.arange(len(groups)), min(minibatches, len(groups)))
    updates = [[sample for i in share for sample in groups[i]] for share in shares]
    for update in updates:
        set_weights(update, objective)
    return updates


def _group_samples(group: Group, version: int, cfg: RewardsConfig, oldest: int | None, kv_kept: bool) -> list[Sample]:
    prompt = int32_array(group.prompt.token_ids)
    oldest = None if oldest is None else min(oldest, group.allowed_staleness(oldest))
    samples = []
    for rollout, reward in zip(group.rollouts, shaped_rewards_of(group, version, cfg), strict=True):
        staleness = token_staleness(rollout, version)
        samples.append(
            Sample(
                group=group.ordinal,
                prompt=prompt,
                completion=int32_array(rollout.token_ids),
                behaviour=float32_array(rollout.behaviour_logprobs),
                keep=np.ones_like(staleness, dtype=bool) if oldest is None else staleness <= oldest,
                staleness=staleness,
                temperature=group.sampling.temperature,
                reward=float(reward),
                comparable=comparable_tokens(group, rollout, staleness, kv_kept=kv_kept),
            )
        )
    return samples


def _set_advantages(groups: list[list[Sample]], kind: Advantage) -> None:
    """Set the advantages of a batch. A reward that is not finite makes non-finite ones: the update will be skipped."""
    with np.errstate(invalid="ignore", over="ignore"):
        rewards = [np.array([sample.reward for sample in group]) for group in groups]
        lengths = [np.array([len(sample.completion) for sample in group]) for group in groups]
        advantages = batch_advantages(rewards, lengths, kind)
    for group, values in zip(groups, advantages, strict=True):
        for sample, advantage in zip(group, values, strict=True):
            sample.advantage = float(advantage)


@dataclass(frozen=True, slots=True)
class UpdateCounts:
    """Counts of one update over all ranks and micro-batches, before any mask."""

    tokens: int
    rollouts: int
    prompts: int


# (update, tokens of the rollout, tokens of all rollouts of its prompt, cfg) -> 1 / the weight of the rollout's tokens
DENOMINATORS: dict[Aggregation, Callable[[UpdateCounts, int, int, ObjectiveConfig], float]] = {
    Aggregation.token_mean: lambda update, rollout, prompt, cfg: update.tokens,
    Aggregation.sequence_mean: lambda update, rollout, prompt, cfg: update.rollouts * rollout,
    Aggregation.sequence_sum: lambda update, rollout, prompt, cfg: update.rollouts * cfg.length_constant,
    Aggregation.prompt_mean: lambda update, rollout, prompt, cfg: update.prompts * prompt,
}


def set_weights(samples: list[Sample], objective: ObjectiveConfig) -> None:
    """Set the token weights of one update, over all ranks and micro-batches, from token counts before any mask.

    They sum to 1 over the tokens of the update, except with sequence_sum, which divides by objective.length_constant in the
    place of each rollout's length.
    """
    prompt_tokens: dict[int, int] = {}
    for sample in samples:
        prompt_tokens[sample.group] = prompt_tokens.get(sample.group, 0) + len(sample.completion)
    counts = UpdateCounts(tokens=sum(prompt_tokens.values()), rollouts=len(samples), prompts=len(prompt_tokens))
    denominator = DENOMINATORS[objective.aggregation]
    for sample in samples:
        sample.weight = 1.0 / denominator(counts, len(sample.completion), prompt_tokens[sample.group], objective)

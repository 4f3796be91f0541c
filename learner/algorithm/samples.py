"""From a batch to samples: rewards, advantages, token masks of `straggler=mask`, and the global denominators of each update."""

from __future__ import annotations

import numpy as np

from ...common.config.algorithm import ObjectiveConfig
from ...common.config.choices import Advantage, Aggregation, Straggler
from ...common.config.sections import Config
from ...common.errors import StalenessViolation
from ...common.types import Batch, FinishReason, Group, Rollout, float32_array, int32_array
from ..batches.packing import Sample
from .advantages import group_advantages, normalise_globally, rewards_of
from .rewards import shape_rewards


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


def token_staleness(rollout: Rollout, version: int) -> np.ndarray:
    """[T] int32: by how many versions each token's sampler was older than `version`."""
    staleness = np.zeros(rollout.num_tokens, dtype=np.int32)
    for span in rollout.spans:
        staleness[span.start : span.end] = version - span.version
    return staleness


def samples_of(batch: Batch, cfg: Config) -> list[list[Sample]]:
    """The batch's rollouts, one list per update (groups in order, split evenly), with advantages and token weights set."""
    limit = cfg.buffer.eta if cfg.buffer.straggler is Straggler.mask else None
    groups = []
    for group in batch.groups:
        prompt, rewards = int32_array(group.prompt.token_ids), shaped_rewards(group, batch.version, cfg)
        groups.append(
            [
                _sample(group, prompt, rollout, float(reward), batch.version, limit)
                for rollout, reward in zip(group.rollouts, rewards, strict=True)
            ]
        )
    _set_advantages(groups, cfg.objective.advantage)
    updates = min(cfg.learner.minibatches, len(groups))
    parts = [[sample for i in part for sample in groups[i]] for part in np.array_split(np.arange(len(groups)), updates)]
    for part in parts:
        set_weights(part, cfg.objective)
    return parts


def shaped_rewards(group: Group, version: int, cfg: Config) -> np.ndarray:
    """Rewards [n] float64 of a group as its advantages are made of, at the step that starts from `version`."""
    return shape_rewards(
        rewards_of(group),
        np.array([rollout.num_tokens for rollout in group.rollouts]),
        np.array([rollout.finish_reason is FinishReason.length for rollout in group.rollouts]),
        max_tokens=group.sampling.max_tokens,
        version=version,
        cfg=cfg.rewards,
    )


def _sample(group: Group, prompt: np.ndarray, rollout: Rollout, reward: float, version: int, limit: int | None) -> Sample:
    """Tokens older than `limit` versions, if that is a number, are context only."""
    staleness = token_staleness(rollout, version)
    return Sample(
        group=group.ordinal,
        prompt=prompt,
        completion=int32_array(rollout.token_ids),
        behaviour=float32_array(rollout.behaviour_logprobs),
        keep=np.ones_like(staleness, dtype=bool) if limit is None else staleness <= limit,
        staleness=staleness,
        temperature=group.sampling.temperature,
        reward=reward,
    )


def _set_advantages(groups: list[list[Sample]], kind: Advantage) -> None:
    """A reward that is not finite makes advantages that are not either: the update is skipped and the group named."""
    with np.errstate(invalid="ignore", over="ignore"):
        advantages = [group_advantages(np.array([sample.reward for sample in group]), kind) for group in groups]
        if kind is Advantage.global_norm:
            lengths = [np.array([len(sample.completion) for sample in group]) for group in groups]
            advantages = normalise_globally(advantages, lengths)
    for group, values in zip(groups, advantages, strict=True):
        for sample, advantage in zip(group, values, strict=True):
            sample.advantage = float(advantage)


def set_weights(samples: list[Sample], objective: ObjectiveConfig) -> None:
    """Token weights of one update, over all ranks and micro-batches, from token counts before any mask.

    A rollout of T tokens of a prompt whose rollouts have P together, among R rollouts, Q prompts and N tokens:
    token_mean 1 / N, sequence_mean 1 / (R T), sequence_sum 1 / (R objective.length_constant), prompt_mean 1 / (Q P). But for
    sequence_sum they sum to 1.
    """
    tokens_of: dict[int, int] = {}
    for sample in samples:
        tokens_of[sample.group] = tokens_of.get(sample.group, 0) + len(sample.completion)
    total = sum(tokens_of.values())
    for sample in samples:
        whole = {
            Aggregation.token_mean: total,
            Aggregation.sequence_mean: len(samples) * len(sample.completion),
            Aggregation.sequence_sum: len(samples) * objective.length_constant,
            Aggregation.prompt_mean: len(tokens_of) * tokens_of[sample.group],
        }[objective.aggregation]
        sample.weight = 1.0 / whole

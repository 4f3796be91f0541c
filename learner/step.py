"""One learner step: a batch in, a changed policy and its metrics out.

batch -> samples (advantages, weights) -> micro-batches -> proximal and reference log-probabilities (no gradient)
      -> for every mini-batch: forward, loss, backward -> one host synchronisation -> clip, AdamW
"""

from __future__ import annotations

import math
import time

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from ..common.config.choices import Loss
from ..common.config.sections import Config
from ..common.errors import NonFiniteUpdate
from ..common.types import Batch
from .algorithm.entropy import next_coefficient
from .algorithm.loss import Bounds, micro_loss, mini_batch_bounds, needs_proximal
from .algorithm.samples import samples_of
from .algorithm.token_stats import ENTROPY, LOSS, NAMES, micro_stats, sample_metrics, stat_metrics
from .batches.packing import MicroBatch, Sample, pack
from .model.policy import Policy
from .model.reference import Reference
from .ranks import Ranks


class Trainer:
    """Owns the optimizer and the coefficient of the entropy bonus, which are state between steps.

    `skipped` counts updates left out for non-finite numbers, `skipped_in_row` those since a good one.
    """

    def __init__(self, cfg: Config, policy: Policy, reference: Reference | None, ranks: Ranks, device: torch.device) -> None:
        self.cfg = cfg
        self.policy = policy
        self.reference = reference
        self.ranks = ranks
        self.device = device
        self.skipped = 0
        self.skipped_in_row = 0
        self.entropy_coefficient = 0.0
        self.reset_optimizer()

    def configure(self, cfg: Config) -> None:
        """A stage begins: from the next step on everything is as `cfg` says. The optimizer's moments stay."""
        self.cfg = cfg
        for group in self.optimizer.param_groups:
            group["lr"] = cfg.learner.lr
        bonus = cfg.objective.entropy_target > 0
        self.entropy_coefficient = min(self.entropy_coefficient, cfg.objective.entropy_max) if bonus else 0.0

    def reset_optimizer(self) -> None:
        """Start AdamW anew."""
        learner = self.cfg.learner
        self.optimizer = torch.optim.AdamW(
            self.policy.parameters(), lr=learner.lr, betas=learner.betas, weight_decay=learner.weight_decay, fused=True
        )

    def train(self, batch: Batch) -> dict[str, float]:
        """Take one step on `batch`. Raises NonFiniteUpdate after `learner.max_skipped` skipped updates in a row."""
        started = time.perf_counter()
        updates = samples_of(batch, self.cfg)
        packed = [self._pack(samples) for samples in updates]
        reference_s = self._fill_reference(packed)
        if needs_proximal(self.cfg.objective, len(packed)):
            for micro in (micro for update in packed for micro in update):
                micro.proximal = self._frozen_logprobs(micro)
        metrics = [self._update(micros, samples) for micros, samples in zip(packed, updates, strict=True)]
        step_s = time.perf_counter() - started
        mean = {name: sum(m[name] for m in metrics) / len(metrics) for name in metrics[0]}
        counted = mean | sample_metrics(updates, self.cfg.buffer.eta)
        bonus = self.entropy_coefficient
        self.entropy_coefficient = next_coefficient(bonus, mean["learner/entropy"], self.cfg.objective)
        return counted | {
            "learner/compute_s": step_s,
            "learner/reference_s": reference_s,
            "learner/tokens_per_s": counted["learner/tokens"] / step_s,
            "learner/micro_batches": float(sum(map(len, packed))),
            "learner/lr": self.cfg.learner.lr,
            "learner/entropy_coefficient": bonus,
            "learner/skipped": float(self.skipped),
        }

    def _pack(self, samples: list[Sample]) -> list[MicroBatch]:
        micros = pack(
            samples,
            token_budget=self.cfg.learner.token_budget,
            layout=self.policy.layout,
            rank=self.ranks.rank,
            world_size=self.ranks.size,
            dtype=torch.promote_types(next(self.policy.parameters()).dtype, torch.float32),
        )
        return [micro.to(self.device) for micro in micros]

    @torch.no_grad()
    def _frozen_logprobs(self, micro: MicroBatch) -> Tensor:
        return self.policy.logprobs(micro)[0]

    def _fill_reference(self, packed: list[list[MicroBatch]]) -> float:
        if self.reference is None:
            return 0.0
        started = time.perf_counter()
        for micro in (micro for update in packed for micro in update):
            micro.reference = self.reference.logprobs(micro)
        return time.perf_counter() - started

    def _update(self, micros: list[MicroBatch], samples: list[Sample]) -> dict[str, float]:
        self.optimizer.zero_grad(set_to_none=True)
        objective = self.cfg.objective
        bounds = mini_batch_bounds(micros, self.ranks, objective) if objective.loss is Loss.m2po else None
        stats = torch.stack([self._backward(micro, bounds) for micro in micros])
        parameters = [p for p in self.policy.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        health = stats[:, LOSS] + stats[:, ENTROPY]  # a policy that is not finite has no such loss: its log-ratios count as 0
        sums = self.ranks.sum_(stats.sum(0))
        read = torch.cat((sums, norm.to(sums).reshape(1), health)).tolist()  # the one host synchronisation of an update
        values, grad_norm, healths = dict(zip(NAMES, read, strict=False)), read[len(NAMES)], read[len(NAMES) + 1 :]
        if math.isfinite(grad_norm) and math.isfinite(values["loss"]):
            torch.nn.utils.clip_grads_with_norm_(parameters, self.cfg.learner.grad_clip, norm)
            self.optimizer.step()
            self.skipped_in_row = 0
        else:
            self._skip(micros, healths, samples, values["loss"], grad_norm)
        metrics = stat_metrics(values) | {"learner/grad_norm": grad_norm}
        return metrics if bounds is None else metrics | {"policy/m2po_bound": bounds[1]}

    def _backward(self, micro: MicroBatch, bounds: Bounds | None) -> Tensor:
        """Forward and backward of one micro-batch; its statistics. Ranks average gradients, hence the factor."""
        objective, bonus = self.cfg.objective, self.entropy_coefficient
        policy, entropy = self.policy.logprobs(micro, entropy_gradient=bonus > 0)
        parts = micro_loss(micro, policy, entropy, objective, bounds=bounds, bonus=bonus)
        ((micro.weight * parts.total).sum() * self.ranks.size).backward()
        return micro_stats(micro, policy, entropy, parts, objective)

    def _skip(
        self, micros: list[MicroBatch], healths: list[float], samples: list[Sample], loss: float, grad_norm: float
    ) -> None:
        self.skipped += 1
        self.skipped_in_row += 1
        if self.skipped_in_row < self.cfg.learner.max_skipped:
            return
        groups = self._blame(micros, healths, samples)
        raise NonFiniteUpdate(
            f"{self.skipped_in_row} updates in a row had a non-finite loss ({loss}) or gradient norm ({grad_norm}); the last "
            f"one came from groups {groups[:16]}; lower learner.lr, or look at those groups' log-probabilities and rewards"
        )

    def _blame(self, micros: list[MicroBatch], healths: list[float], samples: list[Sample]) -> list[int]:
        """Ordinals of the groups to look at: with a non-finite reward, else of unhealthy micro-batches, else all.

        Collective: all ranks skip the same updates.
        """
        groups = list(dict.fromkeys(sample.group for sample in samples))
        flags = torch.tensor([0.0] * len(groups))
        for micro, health in zip(micros, healths, strict=True):
            if not math.isfinite(health):
                flags[[groups.index(group) for group in micro.groups]] = 1.0
        lost = {group for group, flag in zip(groups, self.ranks.sum_(flags).tolist(), strict=True) if flag}
        unrewarded = {sample.group for sample in samples if not math.isfinite(sample.reward)}
        return [group for group in groups if group in (unrewarded or lost or groups)]

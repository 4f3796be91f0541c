"""One learner step: a batch in, a changed policy and its metrics out.

batch -> samples (advantages, weights) -> micro-batches -> proximal and reference log-probabilities (no gradient)
      -> for every mini-batch: forward, objective, backward -> one host synchronisation -> clip, AdamW
"""

from __future__ import annotations

import math
import time

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from ..common.config import Config
from ..common.errors import NonFiniteUpdate
from ..common.types import Batch
from .batch_stats import NAMES, micro_stats, stat_metrics
from .kl import kl_penalty
from .objective import policy_loss
from .packing import MicroBatch, Sample, pack
from .policy import Policy
from .ranks import Ranks
from .reference import Reference
from .samples import samples_of


class Trainer:
    """Owns the optimizer. `skipped` counts updates left out for non-finite numbers, `skipped_in_row` those since a good one."""

    def __init__(self, cfg: Config, policy: Policy, reference: Reference | None, ranks: Ranks, device: torch.device) -> None:
        self.cfg = cfg
        self.policy = policy
        self.reference = reference
        self.ranks = ranks
        self.device = device
        self.skipped = 0
        self.skipped_in_row = 0
        self.reset_optimizer()

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
        if len(packed) > 1:
            for micro in (micro for update in packed for micro in update):
                micro.proximal = self._frozen_logprobs(micro)
        metrics = [self._update(micros, samples) for micros, samples in zip(packed, updates, strict=True)]
        step_s = time.perf_counter() - started
        mean = {name: sum(m[name] for m in metrics) / len(metrics) for name in metrics[0]}
        tokens = sum(len(sample.completion) for samples in updates for sample in samples)
        kept = sum(int(sample.keep.sum()) for samples in updates for sample in samples)
        return mean | {
            "learner/compute_s": step_s,
            "learner/reference_s": reference_s,
            "learner/tokens": float(tokens),
            "learner/tokens_per_s": tokens / step_s,
            "learner/masked_tokens": float(tokens - kept),
            "learner/micro_batches": float(sum(map(len, packed))),
            "learner/lr": self.cfg.learner.lr,
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
        stats = torch.stack([self._backward(micro) for micro in micros])
        parameters = [p for p in self.policy.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        sums = self.ranks.sum_(stats.sum(0))
        losses = stats[:, 0]
        read = torch.cat((sums, norm.to(sums).reshape(1), losses)).tolist()  # the one host synchronisation of an update
        values, grad_norm, micro_losses = dict(zip(NAMES, read, strict=False)), read[len(NAMES)], read[len(NAMES) + 1 :]
        if math.isfinite(grad_norm) and math.isfinite(values["loss"]):
            torch.nn.utils.clip_grads_with_norm_(parameters, self.cfg.learner.grad_clip, norm)
            self.optimizer.step()
            self.skipped_in_row = 0
        else:
            self._skip(micros, micro_losses, samples, values["loss"], grad_norm)
        return stat_metrics(values) | {"learner/grad_norm": grad_norm}

    def _backward(self, micro: MicroBatch) -> Tensor:
        """Forward and backward of one micro-batch; its statistics. Ranks average gradients, hence the factor."""
        objective = self.cfg.objective
        policy, entropy = self.policy.logprobs(micro)
        proximal = policy.detach() if micro.proximal is None else micro.proximal
        terms = policy_loss(
            policy,
            proximal,
            micro.behaviour,
            micro.advantage,
            clip_low=objective.clip_low,
            clip_high=objective.clip_high,
            correction=objective.correction,
            truncation=objective.truncation,
        )
        loss, kl_term, kl = terms.loss, None, None
        if micro.reference is not None:
            kl_term, kl = kl_penalty(
                policy,
                micro.reference,
                micro.behaviour,
                estimator=objective.kl_estimator,
                clamp=objective.kl_clamp,
                truncation=objective.truncation,
            )
            loss = loss + objective.kl_beta * kl_term
            kl_term = objective.kl_beta * kl_term
        ((micro.weight * loss).sum() * self.ranks.size).backward()
        return micro_stats(micro, policy, entropy, terms, kl_term, kl, objective.truncation)

    def _skip(
        self, micros: list[MicroBatch], losses: list[float], samples: list[Sample], loss: float, grad_norm: float
    ) -> None:
        self.skipped += 1
        self.skipped_in_row += 1
        if self.skipped_in_row < self.cfg.learner.max_skipped:
            return
        blamed = [g for micro, value in zip(micros, losses, strict=True) if not math.isfinite(value) for g in micro.groups]
        groups = list(dict.fromkeys(blamed or [sample.group for sample in samples]))
        raise NonFiniteUpdate(
            f"{self.skipped_in_row} updates in a row had a non-finite loss ({loss}) or gradient norm ({grad_norm}); the last "
            f"one came from groups {groups[:16]}; lower learner.lr, or look at those groups' log-probabilities and rewards"
        )

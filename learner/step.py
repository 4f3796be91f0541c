"""One learner step: a batch in, a changed policy and its metrics out.

batch -> samples (advantages, weights) -> micro-batches -> proximal and reference log-probabilities (no gradient)
      -> for every mini-batch: forward, loss, backward -> one host synchronisation -> clip, AdamW
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from ..common.config.algorithm import ObjectiveConfig, RewardsConfig
from ..common.config.choices import Straggler
from ..common.config.sections import Config, LearnerConfig
from ..common.config.trees import largest_eta
from ..common.errors import NonFiniteUpdate
from ..common.half_head import EntropyUse
from ..common.types import Batch
from .algorithm.agreement import TOLERANCE, agreement_metrics, check_agreement
from .algorithm.api import TokenLoss
from .algorithm.losses.table import build_loss
from .algorithm.objective import micro_loss, needs_proximal_forward, next_entropy_coefficient
from .algorithm.samples import samples_of
from .algorithm.token_stats import (
    TokenSums,
    UpdateReading,
    effective_sample_size,
    read_update,
    sample_metrics,
    token_sums,
    update_metrics,
)
from .batches.packing import MicroBatch, Sample, pack, rank_imbalance
from .learning_rate import ess_factor
from .loss_scale import LossScale
from .model.policy import Policy
from .model.reference import Reference
from .optimizer import build_optimizer
from .perf import PhaseClock, perf_metrics, step_flops, trained_share
from .ranks import Ranks
from .stopping import AskLeave, Leaving, StepDropped, go_on


@dataclass(frozen=True, slots=True, kw_only=True)
class StepConfig:
    """The part of the configuration that a step depends on. A stage may bring another."""

    learner: LearnerConfig
    objective: ObjectiveConfig
    rewards: RewardsConfig
    # the largest that there may be
    eta: int
    straggler: Straggler
    # engines keep their cache when new weights arrive
    kv_kept: bool = False
    # in nats (algorithm/agreement.py); 0: nothing is checked
    agreement_tolerance: float = 0.0
    # the loss is scaled on its way back (loss_scale.py)
    scaled_loss: bool = False

    @classmethod
    def of(cls, cfg: Config) -> StepConfig:
        """Take it from the configuration of a run or a stage."""
        return cls(
            learner=cfg.learner,
            objective=cfg.objective,
            rewards=cfg.rewards,
            eta=largest_eta(cfg.buffer),
            straggler=cfg.buffer.straggler,
            kv_kept=not cfg.actor.clear_kv,
            agreement_tolerance=cfg.learner.agreement_tolerance * TOLERANCE[cfg.model.dtype],
            scaled_loss=cfg.model.dtype == "float16",
        )


class Trainer:
    """Owns the optimizer and the coefficient of the entropy bonus, which are state between steps.

    `skipped` counts updates left out because of non-finite numbers, `skipped_in_row` those since the last good update. Updates
    whose gradients overflowed under the scale of a float16 loss are none of them: `loss_scale` counts these.
    """

    def __init__(
        self, cfg: StepConfig, policy: Policy, reference: Reference | None, ranks: Ranks, device: torch.device
    ) -> None:
        self.cfg = cfg
        self.policy = policy
        self.reference = reference
        self.ranks = ranks
        self.device = device
        self.loss = build_loss(cfg.objective)
        self.clock = PhaseClock(device)
        self.skipped = 0
        self.skipped_in_row = 0
        self.loss_scale = LossScale()
        self.entropy_coefficient = 0.0
        # of the step under way, before the share of each update
        self.lr = cfg.learner.lr
        # whether the policy is still that of the batch's start, and what it had in common with the sampler then
        self._untouched = True
        self._agreement: dict[str, float] = {}
        self._ask_leave: AskLeave = go_on
        self.reset_optimizer()

    def configure(self, cfg: StepConfig) -> None:
        """Begin a stage: from the next step on everything is as `cfg` says. The optimizer's moments stay."""
        self.cfg = cfg
        self.loss = build_loss(cfg.objective)
        bonus = cfg.objective.entropy_target > 0
        self.entropy_coefficient = min(self.entropy_coefficient, cfg.objective.entropy_max) if bonus else 0.0

    @property
    def loss_factor(self) -> float:
        """The factor on the loss, a power of two; 1 unless the dtype has a smaller range than float32."""
        return self.loss_scale.factor if self.cfg.scaled_loss else 1.0

    def reset_optimizer(self) -> None:
        """Replace AdamW by a new one, without moments."""
        self.optimizer = build_optimizer(self.policy.causal, self.cfg.learner)

    def train(self, batch: Batch, ask_leave: AskLeave = go_on, *, lr_factor: float = 1.0) -> dict[str, float]:
        """Take one step on `batch`, with the share `lr_factor` of the learning rate: its metrics. Collective.

        `ask_leave` is asked between micro-batches. Once the policy has changed, the step is finished if there is time.
        Raises: NonFiniteUpdate after `learner.max_skipped` skipped updates in a row; PolicyMismatch, before the policy changes;
        StepDropped, when told to leave.
        """
        started = time.perf_counter()
        self._untouched, self._ask_leave = True, ask_leave
        cfg = self.cfg
        self.lr = lr = cfg.learner.lr * lr_factor
        updates = samples_of(
            batch,
            objective=cfg.objective,
            rewards=cfg.rewards,
            minibatches=cfg.learner.minibatches,
            oldest=cfg.eta if cfg.straggler is Straggler.mask else None,
            kv_kept=cfg.kv_kept,
        )
        packed = [self._pack(samples) for samples in updates]
        self._fill_reference(packed)
        frozen_forwards = int(self.reference is not None)
        if needs_proximal_forward(self.loss, cfg.objective, len(packed)):
            frozen_forwards += 1
            with self.clock("proximal"):
                for micro in self._until_told(chain.from_iterable(packed)):
                    micro.proximal = self._frozen_logprobs(micro)
        metrics = [self._update(micros, samples) for micros, samples in zip(packed, updates, strict=True)]
        mean = {name: sum(m[name] for m in metrics) / len(metrics) for name in metrics[0]}
        counted = mean | self._agreement | sample_metrics(updates, cfg.eta)
        bonus = self.entropy_coefficient
        self.entropy_coefficient = next_entropy_coefficient(bonus, mean["learner/entropy"], cfg.objective)
        return (
            counted
            | self._speed(updates, counted["learner/tokens"], started, frozen_forwards)
            | {
                "learner/micro_batches": float(sum(map(len, packed))),
                "perf/rank_imbalance": rank_imbalance([*chain.from_iterable(packed)]),
                "learner/lr": lr,
                "learner/entropy_coefficient": bonus,
                "learner/skipped": float(self.skipped),
            }
            | (self._scale_metrics() if cfg.scaled_loss else {})
        )

    def _scale_metrics(self) -> dict[str, float]:
        scale = self.loss_scale
        return {"learner/loss_scale": scale.factor, "learner/overflows": float(scale.overflows)}

    def _pack(self, samples: list[Sample]) -> list[MicroBatch]:
        sharing, context = self.ranks.sharing, self.ranks.context
        micros = pack(
            samples,
            token_budget=self.cfg.learner.token_budget * sharing,
            layout=self.policy.layout,
            rank=self.ranks.rank // sharing,
            world_size=self.ranks.size // sharing,
            dtype=torch.promote_types(next(self.policy.parameters()).dtype, torch.float32),
            cost=self.policy.cost,
        )
        if context is not None:
            micros = [micro.shared(context) for micro in micros]
        return [micro.to(self.device) for micro in micros]

    def _until_told(self, micros: Iterable[MicroBatch]) -> Iterator[MicroBatch]:
        """Yield the micro-batches until told to leave. Collective: all ranks have equally many. Raises: StepDropped."""
        for micro in micros:
            leave = self._ask_leave()
            if leave is Leaving.now or (leave is Leaving.soon and self._untouched):
                raise StepDropped(unchanged=self._untouched)
            yield micro

    @torch.no_grad()
    def _frozen_logprobs(self, micro: MicroBatch) -> Tensor:
        return self.policy.logprobs(micro)[0]

    def _fill_reference(self, packed: list[list[MicroBatch]]) -> None:
        """Fill `reference` of every micro-batch, if there is a reference."""
        if self.reference is None:
            return
        with self.clock("reference"):
            for micro in self._until_told(chain.from_iterable(packed)):
                micro.reference = self.reference.logprobs(micro)

    def _speed(self, updates: list[list[Sample]], tokens: float, started: float, frozen_forwards: int) -> dict[str, float]:
        """Compute the metrics of the step's time, which ends here."""
        phases = self.clock.take()
        seconds = time.perf_counter() - started
        share = trained_share(self.policy.parameters())
        flops = step_flops(updates, self.policy.cost, trained_share=share, frozen_forwards=frozen_forwards)
        dtype, ranks = self.policy.compute_dtype, self.ranks.size
        speed = perf_metrics(self.device, dtype, flops=flops, tokens=tokens, seconds=seconds, ranks=ranks)
        return phases | speed | {"learner/compute_s": seconds, "learner/tokens_per_s": tokens / seconds}

    def _update(self, micros: list[MicroBatch], samples: list[Sample]) -> dict[str, float]:
        """Take one optimizer step on a mini-batch: its metrics."""
        self.optimizer.zero_grad(set_to_none=True)
        token_loss = self.loss.for_mini_batch(micros, self.ranks)
        with self.clock("forward_backward"):
            sums = [self._backward(micro, token_loss, last=micro is micros[-1]) for micro in self._until_told(micros)]
        with self.clock("optimizer"):
            reading = self._apply(micros, sums, samples)
        own = {"learner/ess_factor": self._ess_factor(reading)} if self.cfg.learner.ess_on_policy else {}
        return update_metrics(reading.sums) | {"learner/grad_norm": reading.grad_norm} | own | token_loss.metrics()

    def _ess_factor(self, reading: UpdateReading) -> float:
        """The share of the step's learning rate that this update takes; the same on every rank."""
        return ess_factor(effective_sample_size(reading.sums), self.cfg.learner.ess_on_policy)

    def _apply(self, micros: list[MicroBatch], sums: list[TokenSums], samples: list[Sample]) -> UpdateReading:
        """Read the update's statistics, then clip the gradients and change the policy, unless something is not finite."""
        parameters = [p for p in self.policy.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        norm = (norm.full_tensor() if isinstance(norm, DTensor) else norm).to(self.device) / self.loss_factor
        reading = read_update(sums, norm, self.ranks)
        self._compare(reading)
        if math.isfinite(reading.grad_norm) and math.isfinite(reading.sums["loss"]):
            self._step(parameters, norm, self._ess_factor(reading))
        elif self.loss_factor > 1 and math.isfinite(reading.sums["loss"]):
            self.loss_scale = self.loss_scale.overflowed()
        else:
            self._skip(micros, reading, samples)
        return reading

    def _step(self, parameters: list[torch.nn.Parameter], norm: Tensor, factor: float) -> None:
        """Clip the gradients, whose norm would be `norm` with a loss that is not scaled, and let the optimizer step.

        factor: the share of the step's learning rate.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * factor
        if self.loss_factor != 1:
            for gradient in [p.grad for p in parameters if p.grad is not None]:
                gradient.mul_(1 / self.loss_factor)
            self.loss_scale = self.loss_scale.worked()
        torch.nn.utils.clip_grads_with_norm_(parameters, self.cfg.learner.grad_clip, norm)
        self.optimizer.step()
        self.skipped_in_row = 0

    def _compare(self, reading: UpdateReading) -> None:
        """Compare sampler and policy, if no update of this batch has changed the policy yet. Raises: PolicyMismatch."""
        if self._untouched:
            self._agreement = agreement_metrics(reading.sums)
            check_agreement(self._agreement, self.cfg.agreement_tolerance)
        self._untouched = False

    def _backward(self, micro: MicroBatch, token_loss: TokenLoss, *, last: bool) -> TokenSums:
        """Forward and backward of one micro-batch, the `last` of its update or not: its statistics."""
        self.policy.add_gradients_up(last)
        objective, bonus = self.cfg.objective, self.entropy_coefficient
        use = EntropyUse.trained if bonus > 0 else EntropyUse.reported
        policy, entropy = self.policy.logprobs(micro, entropy=use)
        parts = micro_loss(micro, policy, entropy, objective, token_loss=token_loss, bonus=bonus)
        # ranks average their gradients, but token weights make a sum over ranks the mean: hence the factor
        ((micro.weight * parts.total).sum() * (self.ranks.size * self.loss_factor)).backward()
        return token_sums(micro, policy, entropy, parts, objective)

    def _skip(self, micros: list[MicroBatch], reading: UpdateReading, samples: list[Sample]) -> None:
        """Count a skipped update. Raises: NonFiniteUpdate for too many in a row."""
        self.skipped += 1
        self.skipped_in_row += 1
        if self.skipped_in_row < self.cfg.learner.max_skipped:
            return
        groups = self._blame(micros, reading.health, samples)
        raise NonFiniteUpdate(
            f"{self.skipped_in_row} updates in a row had a non-finite loss ({reading.sums['loss']}) or gradient norm "
            f"({reading.grad_norm}); the last one came from groups {groups[:16]}; lower learner.lr, or look at those groups' "
            "log-probabilities and rewards"
        )

    def _blame(self, micros: list[MicroBatch], health: list[float], samples: list[Sample]) -> list[int]:
        """Find the ordinals of the groups to look at.

        These are the groups with a non-finite reward; without any, those in micro-batches whose health is not finite; without
        any, all groups. Collective: all ranks skip the same updates.
        """
        groups = list(dict.fromkeys(sample.group for sample in samples))
        flags = torch.tensor([0.0] * len(groups))
        for micro, number in zip(micros, health, strict=True):
            if not math.isfinite(number):
                flags[[groups.index(group) for group in micro.groups]] = 1.0
        unhealthy = {group for group, flag in zip(groups, self.ranks.sum_(flags).tolist(), strict=True) if flag}
        unrewarded = {sample.group for sample in samples if not math.isfinite(sample.reward)}
        suspects = unrewarded or unhealthy or set(groups)
        return [group for group in groups if group in suspects]

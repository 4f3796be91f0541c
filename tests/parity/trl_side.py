"""TRL's side: the very methods of GRPOTrainer, called on a stand-in that has the attributes they read.

The stand-in's `args` is a real GRPOConfig, so that everything a test does not set is TRL's default. Parts that need a model or
a tokenizer are replaced: generation returns the rollouts, the forward returns their log-probabilities.
"""

# pyright: reportMissingImports=false
# TRL and verl are in .venv-parity alone

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from trl import GRPOConfig, GRPOTrainer

from tests.parity.ours import loss_and_gradient
from tests.parity.rollouts import Rollouts

PROMPT = [[1, 2]]


class Accelerator:
    """One process."""

    device = torch.device("cpu")
    num_processes = 1
    process_index = 0
    sync_gradients = True

    def gather(self, values: Tensor) -> Tensor:
        return values

    def reduce(self, values: Tensor, reduction: str) -> Tensor:
        assert reduction == "sum"
        return values


class StandIn(SimpleNamespace):
    """Attributes of GRPOTrainer. Those that are not given are the settings of the same name, as in its __init__."""

    args: GRPOConfig

    def __getattr__(self, name: str) -> Any:
        return getattr(self.args, name)


def trainer(rollouts: Rollouts, *, parts: int = 1, **settings: Any) -> StandIn:
    """The stand-in: `parts` gradient accumulation steps make an update; settings are GRPOConfig's."""
    size = int((rollouts.group == rollouts.group[0]).sum())
    args = GRPOConfig(
        output_dir="unused",
        report_to=[],
        bf16=False,
        use_cpu=True,
        per_device_train_batch_size=len(rollouts.lengths) // parts,
        gradient_accumulation_steps=parts,
        num_generations=size,
        **settings,
    )
    model = SimpleNamespace(training=True, is_gradient_checkpointing=False)
    return StandIn(
        args=args,
        model=model,
        ref_model=model,
        accelerator=Accelerator(),
        epsilon_low=args.epsilon,
        epsilon_high=args.epsilon if args.epsilon_high is None else args.epsilon_high,
        current_gradient_accumulation_steps=parts,
        aux_loss_enabled=False,
        get_off_policy_mask=GRPOTrainer.get_off_policy_mask,
        environment_factories=None,
        environments=None,
        tools=None,
        reward_func_names=["reward"],
        reward_weights=torch.ones(1, dtype=torch.float64),
        _calculate_rewards=lambda *_: rollouts.rewards[:, None].clone(),
        _tokenizer=SimpleNamespace(pad_token_id=0),
        _entropy_bonus_enabled=args.entropy_coef != 0.0,
        _metrics={"train": defaultdict(list)},
        _logs=defaultdict(list, rewards=defaultdict(list)),
        _pending_extra_logs={},
        _pending_metrics={},
    )


def generate(stand_in: StandIn, rollouts: Rollouts) -> dict[str, Tensor]:
    """The batch as `_generate_and_score_completions` makes it: advantages and, with vLLM, the sampler's correction."""
    lengths = rollouts.lengths.tolist()
    completions = [[1] * length for length in lengths]
    sampled = [values.tolist() for values in rollouts.behaviour.split(lengths)] if stand_in.use_vllm else None
    count = len(lengths)
    stand_in._generate = lambda _: (PROMPT * count, completions, None, completions, sampled, {}, None, None)
    proximal, reference = rollouts.padded(rollouts.proximal), rollouts.padded(rollouts.reference)
    stand_in._get_per_token_logps_and_entropies = _forwards(iter([proximal, reference] if stand_in.use_vllm else [reference]))
    return GRPOTrainer._generate_and_score_completions(stand_in, [{"prompt": ""}] * count)  # type: ignore[arg-type]


def batch_of(rollouts: Rollouts) -> dict[str, Tensor]:
    """A batch with the rollouts' given advantages and the proximal policy as TRL's old one, without correction."""
    ids, mask = torch.ones_like(rollouts.mask, dtype=torch.int64), rollouts.mask.long()
    return {
        "prompt_ids": ids[:, :1],
        "prompt_mask": ids[:, :1],
        "completion_ids": ids,
        "completion_mask": mask,
        "advantages": rollouts.advantage,
        "num_items_in_batch": mask.sum(),
        "old_per_token_logps": rollouts.padded(rollouts.proximal),
        "sampling_per_token_logps": rollouts.padded(rollouts.behaviour),
        "ref_per_token_logps": rollouts.padded(rollouts.reference),
    }


def loss_of(stand_in: StandIn, batch: dict[str, Tensor], rollouts: Rollouts, entropy: Tensor | None = None) -> Tensor:
    """`_compute_loss` of one micro-batch and its gradient: [1 + M]. entropy: [M], 0 if not given."""
    policy = rollouts.padded(rollouts.policy).requires_grad_()
    entropies = None if entropy is None else rollouts.padded(entropy)
    stand_in._get_per_token_logps_and_entropies = _forwards(iter([policy]), entropies)
    loss = GRPOTrainer._compute_loss(stand_in, None, batch)  # type: ignore[arg-type]
    return loss_and_gradient(loss, policy, rollouts.mask)


def _forwards(results: Iterator[Tensor], entropies: Tensor | None = None) -> Callable[..., tuple[Tensor, Tensor, None]]:
    """A forward that returns the next of `results` as log-probabilities."""

    def forward(*_: Any, **__: Any) -> tuple[Tensor, Tensor, None]:
        values = next(results)
        return values, torch.zeros_like(values) if entropies is None else entropies, None

    return forward

"""Supervised warm-up: trains a small causal language model from random weights on demonstrations.

`prolong bootstrap --train` makes the demo's model with it. Deterministic for a seed, a torch build and one thread.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from ...common.json_object import JsonObject

# token ids of a prompt, and of its completion with the end-of-sequence token
Demonstration = tuple[list[int], list[int]]


def build_model(config: JsonObject, seed: int) -> Any:
    """A randomly initialised causal LM of transformers, in float32, from the content of a config.json."""
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = dict(config)
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(settings.pop("model_type"), **settings), dtype=torch.float32)


def collate(pairs: list[Demonstration], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded input ids [B, T] int64 and labels [B, T] int64; labels are -100 except on completion tokens."""
    width = max(len(prompt) + len(completion) for prompt, completion in pairs)
    input_ids = torch.full((len(pairs), width), pad_id)
    labels = torch.full((len(pairs), width), -100)
    for row, (prompt, completion) in enumerate(pairs):
        end = len(prompt) + len(completion)
        input_ids[row, :end] = torch.tensor(prompt + completion)
        labels[row, len(prompt) : end] = torch.tensor(completion)
    return input_ids, labels


def learning_rate(step: int, steps: int, peak: float) -> float:
    """A linear rise over 50 steps at most, then half a cosine down to a fiftieth of the peak."""
    rise = min(1.0, (step + 1) / min(50, steps))
    return peak * rise * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))


def warm_up(
    model: Any,
    pairs: Iterator[Demonstration],
    *,
    steps: int,
    batch: int,
    lr: float,
    pad_id: int,
    progress: Callable[[int, float], None] = lambda step, loss: None,
) -> float:
    """Train `model` in place on `steps` batches of `pairs`; returns the mean loss of the last tenth, in nats per token.

    `progress(step, loss)` is called after every step. Raises ValueError when `pairs` ends early.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.98), weight_decay=0.01)
    losses = []
    model.train()
    for step in range(steps):
        rows = list(itertools.islice(pairs, batch))
        if len(rows) < batch:
            raise ValueError(f"warm-up: the demonstrations ended in step {step} of {steps}; give at least {steps * batch}")
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, lr)
        input_ids, labels = collate(rows, pad_id)
        # [B, T, V]; right padding needs no mask because attention is causal
        logits = model(input_ids=input_ids, use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        progress(step + 1, losses[-1])
    model.eval()
    tail = losses[-max(1, steps // 10) :]
    return sum(tail) / len(tail)


def save_model(model: Any, folder: Path) -> None:
    """Write config.json and model.safetensors, as transformers and vLLM load them."""
    model.save_pretrained(folder, safe_serialization=True)
    config = json.loads((folder / "config.json").read_text())
    config.pop("_name_or_path", None)
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")

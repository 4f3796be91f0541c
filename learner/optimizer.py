"""AdamW over the trained parameters, in groups by weight decay."""

from __future__ import annotations

import re
from collections.abc import Iterable

import torch
from torch import nn

from ..common.config.sections import LearnerConfig
from ..common.errors import require

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


def build_optimizer(model: nn.Module, cfg: LearnerConfig) -> torch.optim.AdamW:
    """Build AdamW without moments. Raises: ConfigError for a pattern of `learner.no_decay` that matches no parameter."""
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    spared = undecayed(trained, cfg.no_decay)
    groups = [
        {"params": [parameter for name, parameter in trained.items() if name not in spared]},
        {"params": [parameter for name, parameter in trained.items() if name in spared], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=cfg.lr,
        betas=cfg.betas,
        weight_decay=cfg.weight_decay,
        fused=True,
    )


def undecayed(names: Iterable[str], patterns: list[str]) -> set[str]:
    """The names that contain one of `patterns`. Raises: ConfigError for a pattern that none contains."""
    known = list(names)
    found = set()
    for pattern in patterns:
        matched = [name for name in known if pattern and pattern in name]
        # one line for all layers
        kinds = dict.fromkeys(_NUMBER.sub("*", name) for name in known)
        require(bool(matched), "learner.no_decay", pattern, f"a part of a trained parameter's name: {', '.join(kinds)}")
        found.update(matched)
    return found

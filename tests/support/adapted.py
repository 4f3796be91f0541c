"""The learner's policy with adapters, and how far an engine is from it."""

from __future__ import annotations

import numpy as np
import torch
from prolong.common.adapters import DOWN, UP
from prolong.common.config.sections import ModelConfig
from prolong.common.types import float32_array
from prolong.learner.model.lora import adapted_layers
from prolong.learner.model.policy import Policy, build_policy

from tests.support.engine_rig import Rig, logprobs_under

LORA = {"rank": 4, "alpha": 8.0}


def adapted_policy(folder: str, seed: int, dtype: torch.dtype = torch.float32) -> Policy:
    """The learner's policy with adapters that change it a lot."""
    model = ModelConfig(path=folder, dtype="float32", attention="sdpa", lora=LORA)
    policy = build_policy(model, device=torch.device("cpu"), chunk=1024, shard=False)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, layer in adapted_layers(policy.causal):
            for factor in (layer.get_parameter(DOWN), layer.get_parameter(UP)):
                factor.copy_(0.2 * torch.randn(factor.shape, generator=generator))
    for parameter in policy.parameters():
        parameter.data = parameter.data.to(dtype)
    return policy


def gaps(rig: Rig, policy: Policy, **sampling: object) -> np.ndarray:
    """|learner - engine| of the log-probabilities of all tokens of a ticket."""
    policy.causal.set_attn_implementation("sdpa")
    made = rig.generate(**sampling)
    return np.concatenate([np.abs(logprobs_under(policy.causal, c) - float32_array(c.behaviour_logprobs)) for c in made])

"""A policy's adapters in the file format of PEFT, so that transformers, vLLM and others put them on the base.

    adapter_model.safetensors   base_model.model.LAYER.lora_A.weight, ... in float32
    adapter_config.json         rank, alpha, the layers, and where the base was

Every checkpoint of a run with adapters has them. A resume does not read them: it needs the same tensors as of any other run.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import msgspec
from safetensors.torch import save_file
from torch import Tensor

from ...common.adapters import DOWN, is_factor
from ...common.errors import ModelError
from ..model.lora import adapted_layers
from ..model.policy import Policy

ADAPTER, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"


class AdapterSettings(TypedDict):
    """The part of adapter_config.json that is read here."""

    base_model_name_or_path: str


@dataclass(slots=True, frozen=True)
class AdapterFiles:
    """The content of both files."""

    tensors: dict[str, Tensor]
    # of adapter_config.json
    settings: bytes

    def write(self, folder: Path) -> None:
        """Write both. Raises: OSError, SafetensorError."""
        save_file(self.tensors, folder / ADAPTER, metadata={"format": "pt"})
        (folder / ADAPTER_CONFIG).write_bytes(self.settings)


def copy_adapters(policy: Policy) -> AdapterFiles | None:
    """Copy the adapters of the policy, whole, to the CPU; None if it has none. Collective."""
    layers = dict(adapted_layers(policy.causal))
    if not layers:
        return None
    tensors = {
        f"base_model.model.{name}.weight": value.detach().to("cpu", copy=True).contiguous()
        for name, value in policy.full_parameters()
        if is_factor(name)
    }
    layer = next(iter(layers.values()))
    rank = layer.get_parameter(DOWN).shape[0]
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": policy.causal.config.name_or_path,
        "r": rank,
        "lora_alpha": layer.scale * rank,
        "target_modules": sorted(layers),
        "bias": "none",
        "lora_dropout": 0.0,
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    return AdapterFiles(tensors, msgspec.json.format(msgspec.json.encode(settings)))


def base_path(checkpoint: Path) -> str:
    """Where the base was whose adapters the checkpoint holds. Raises: ModelError."""
    try:
        settings = msgspec.json.decode((checkpoint / ADAPTER_CONFIG).read_bytes(), type=AdapterSettings)
    except (OSError, msgspec.MsgspecError) as error:
        raise ModelError(
            f"{checkpoint}/{ADAPTER_CONFIG} cannot be read ({error}): it says where the base of the adapters is"
        ) from error
    return settings["base_model_name_or_path"]

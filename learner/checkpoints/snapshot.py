"""What a checkpoint holds, as of one step: copied on the learner's thread, written to a folder on another one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor

from ..ranks import Ranks
from ..step import Trainer
from .checkpoint import MASTER, MODEL, MOMENTS, REFERENCE, STATE, TRAINER, LearnerState, encode_state


@dataclass(slots=True)
class Snapshot:
    """Tensors are whole, on the CPU, and nobody else's. On ranks other than the first they are missing."""

    version: int
    epoch: int  # of the reference
    state: bytes  # state.json
    config: dict[str, Any]  # config.json, but for its dtype
    policy: dict[str, Tensor]  # float32
    optimizer: dict[str, Tensor]  # "exp_avg/NAME", ...; none after a reset
    rng: dict[str, Tensor]  # "rng/cpu" [ranks, bytes]
    reference: dict[str, Tensor]  # empty without a KL term, or when it is on disk already


def take_snapshot(state: LearnerState, trainer: Trainer, ranks: Ranks, *, with_reference: bool) -> Snapshot:
    """Copy everything. Collective. What `load_checkpoint` gives back to the trainer is taken from it, not from `state`."""
    frozen = trainer.reference
    epoch = frozen.epoch if frozen else 0
    written = msgspec.structs.replace(
        state,
        reference_epoch=epoch,
        entropy_coefficient=trainer.entropy_coefficient,
        skipped=trainer.skipped,
        skipped_in_row=trainer.skipped_in_row,
    )
    rng = {"rng/cpu": torch.stack(ranks.gather(torch.get_rng_state()))}
    if torch.cuda.is_available():
        rng["rng/cuda"] = torch.stack(ranks.gather(torch.cuda.get_rng_state()))
    return Snapshot(
        version=state.version,
        epoch=epoch,
        state=encode_state(written),
        config=msgspec.json.decode(trainer.policy.causal.config.to_json_string()),
        policy=_gather(trainer.policy.full_parameters(), ranks),
        optimizer=_gather(_moments(trainer), ranks),
        rng=rng,
        reference=_gather(frozen.policy.full_parameters(), ranks) if frozen and with_reference else {},
    )


def write_snapshot(snapshot: Snapshot, folder: Path, *, dtype: torch.dtype) -> None:
    """Fill `folder`; `dtype` is the model's as exported. Raises OSError, SafetensorError."""
    masters: dict[str, Tensor] = {}
    if dtype is not torch.float32:
        masters = {f"{MASTER}{name}": tensor for name, tensor in snapshot.policy.items()}
    exported = {name: tensor.to(dtype) for name, tensor in snapshot.policy.items()}
    save_file(exported, folder / MODEL, metadata={"format": "pt"})
    save_file(snapshot.optimizer | masters | snapshot.rng, folder / TRAINER)
    if snapshot.reference:
        save_file(snapshot.reference, folder / REFERENCE)
    config = snapshot.config | {"dtype": str(dtype).removeprefix("torch.")}
    (folder / "config.json").write_bytes(msgspec.json.format(msgspec.json.encode(config)))
    (folder / STATE).write_bytes(snapshot.state)


def _moments(trainer: Trainer) -> Iterator[tuple[str, Tensor]]:
    """The optimizer's tensors by name, whole; collective like `full_parameters`."""
    for name, parameter in trainer.policy.causal.named_parameters():
        moments: dict[str, Any] = trainer.optimizer.state.get(parameter, {})
        for kind in MOMENTS:
            if kind in moments:
                value = moments[kind]
                yield f"{kind}/{name}", value.full_tensor() if isinstance(value, DTensor) else value


def _gather(tensors: Iterator[tuple[str, Tensor]], ranks: Ranks) -> dict[str, Tensor]:
    """Copies on the CPU of rank 0; the others take part and keep nothing."""
    whole = {}
    for name, tensor in tensors:
        if ranks.first:
            whole[name] = tensor.detach().to("cpu", copy=True).contiguous()
    return whole

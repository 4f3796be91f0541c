"""A copy of the learner's state as of one step, taken by the learner's thread and written by another one.

    one rank:        take_snapshot -> Snapshot       -> model.safetensors, trainer.safetensors, reference.safetensors
    several ranks:   take_snapshot -> ShardSnapshot  -> policy, trainer and reference-RANK-of-RANKS.safetensors on each

Several ranks gather nothing: each copies and writes what it holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers.core_model_loading import revert_weight_conversion

from ...common.json_object import JsonObject
from ..ranks import Ranks
from ..step import Trainer
from .adapter_files import AdapterFiles, copy_adapters
from .checkpoint import (
    MASTER,
    MODEL,
    MOMENTS,
    POLICY,
    REFERENCE,
    SHARDED_FORMAT,
    STATE,
    TRAINER,
    LearnerState,
    encode_state,
    stored_file,
)
from .host_memory import HostMemory
from .shards import Shard, box_of, is_first_copy, local_part, write_shards


@dataclass(slots=True, kw_only=True)
class Snapshot:
    """Everything that a checkpoint of one rank holds. Tensors are whole and on the CPU."""

    version: int
    # of the reference
    epoch: int
    averages: int
    # the content of state.json
    state: bytes
    # the content of config.json without its dtype
    config: JsonObject
    adapter: AdapterFiles | None
    # float32, by parameter name
    policy: dict[str, Tensor]
    # the same under the names and in the shapes of the model's own files, which differ for mixtures of experts; of adapters
    # empty
    files: dict[str, Tensor]
    # "exp_avg/NAME", ...; empty right after a reset of the optimizer
    optimizer: dict[str, Tensor]
    # "rng/cpu" [1, bytes]
    rng: dict[str, Tensor]
    # empty without a KL term, or when the file on the disk is linked instead
    reference: dict[str, Tensor]

    @property
    def num_bytes(self) -> int:
        """The size of all tensors."""
        held = (self.policy, self.optimizer, self.reference)
        return sum(tensor.nbytes for tensors in held for tensor in tensors.values())

    def write_tensors(self, folder: Path, dtype: torch.dtype) -> None:
        """Write the model in `dtype`, and all other tensors as they are. Raises: OSError, SafetensorError."""
        masters: dict[str, Tensor] = {}
        converted = self.files.keys() != self.policy.keys()
        if dtype is not torch.float32 or converted:
            masters = {f"{MASTER}{name}": tensor for name, tensor in self.policy.items()}
        # tensors of the files may be parts of one parameter, and safetensors refuses tensors that share memory
        exported = {name: tensor.to(dtype, copy=converted).contiguous() for name, tensor in self.files.items()}
        if exported:
            save_file(exported, folder / MODEL, metadata={"format": "pt"})
        save_file(self.optimizer | masters | self.rng, folder / TRAINER)
        if self.reference:
            save_file(self.reference, folder / REFERENCE)


@dataclass(slots=True)
class Held:
    """A rank's part of some tensors, and the shapes of all of them."""

    shards: dict[str, Shard] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class ShardSnapshot:
    """What one of several ranks holds of a checkpoint, on the CPU."""

    version: int
    epoch: int
    averages: int
    state: bytes
    config: JsonObject
    adapter: AdapterFiles | None
    rank: int
    ranks: int
    # what is written into each file, by the name of the file
    files: dict[str, Held]

    @property
    def num_bytes(self) -> int:
        """The size of all tensors of this rank."""
        return sum(shard.part.nbytes for held in self.files.values() for shard in held.shards.values())

    def write_tensors(self, folder: Path, dtype: torch.dtype) -> None:
        """Write the files of this rank; the masters are float32, whatever `dtype` says. Raises: OSError, SafetensorError."""
        for name, held in self.files.items():
            write_shards(stored_file(folder, name, self.rank, self.ranks), held.shards, held.shapes)


def take_snapshot(
    state: LearnerState,
    trainer: Trainer,
    ranks: Ranks,
    memory: HostMemory,
    *,
    with_reference: bool,
    copies: bool = False,
) -> Snapshot | ShardSnapshot:
    """Copy everything into `memory`. With several ranks nothing travels between them.

    copies: take what other ranks hold too, because this one's disk is not theirs.
    """
    frozen = trainer.reference
    common = {
        "version": state.version,
        "epoch": frozen.epoch if frozen else 0,
        "averages": frozen.averages if frozen else 0,
        "state": encode_state(_with_numbers_of(trainer, state, ranks)),
        "config": msgspec.json.decode(trainer.policy.causal.config.to_json_string()),
        "adapter": copy_adapters(trainer.policy),
    }
    reference = frozen.stored_tensors() if frozen and with_reference else None
    if ranks.size == 1:
        policy = _copy_whole(POLICY, trainer.policy.full_parameters(), memory)
        return Snapshot(
            **common,
            policy=policy,
            files={} if common["adapter"] else revert_weight_conversion(trainer.policy.causal, policy),
            optimizer=_copy_whole(TRAINER, stored_moments(trainer), memory),
            rng={name: value.unsqueeze(0) for name, value in _random_states().items()},
            reference=_copy_whole(REFERENCE, reference or (), memory),
        )
    parts = {POLICY: trainer.policy.stored_tensors(), TRAINER: stored_moments(trainer)}
    if reference is not None:
        parts[REFERENCE] = reference
    files = {name: _copy_held(name, tensors, ranks, memory, copies=copies) for name, tensors in parts.items()}
    memory.wait()
    for name, value in _random_states().items():
        files[TRAINER].shards[name] = Shard(value.unsqueeze(0), (ranks.rank, 0))
        files[TRAINER].shapes[name] = (ranks.size, len(value))
    return ShardSnapshot(**common, rank=ranks.rank, ranks=ranks.size, files=files)


def _with_numbers_of(trainer: Trainer, state: LearnerState, ranks: Ranks) -> LearnerState:
    """`state` with the numbers that `load_checkpoint` gives back to the trainer, which are the trainer's."""
    return msgspec.structs.replace(
        state,
        format=state.format if ranks.size == 1 else SHARDED_FORMAT,
        ranks=ranks.size,
        reference_epoch=trainer.reference.epoch if trainer.reference else 0,
        entropy_coefficient=trainer.entropy_coefficient,
        skipped=trainer.skipped,
        skipped_in_row=trainer.skipped_in_row,
        loss_scale=trainer.loss_scale,
    )


def write_snapshot(snapshot: Snapshot | ShardSnapshot, folder: Path, *, dtype: torch.dtype, owner: bool = True) -> None:
    """Fill `folder` with the files of a checkpoint: the model in `dtype`, and on the `owner` of the folder what is no tensor.

    Raises: OSError, SafetensorError.
    """
    snapshot.write_tensors(folder, dtype)
    if owner:
        if snapshot.adapter is not None:
            snapshot.adapter.write(folder)
        config = snapshot.config | {"dtype": str(dtype).removeprefix("torch.")}
        (folder / "config.json").write_bytes(msgspec.json.format(msgspec.json.encode(config)))
        (folder / STATE).write_bytes(snapshot.state)


def stored_moments(trainer: Trainer) -> Iterator[tuple[str, Tensor]]:
    """Yield the optimizer's tensors by name, as this rank holds them."""
    for name, parameter in trainer.policy.causal.named_parameters():
        moments: dict[str, Tensor] = trainer.optimizer.state.get(parameter, {})
        for kind in MOMENTS:
            if kind in moments:
                yield f"{kind}/{name}", moments[kind]


def _random_states() -> dict[str, Tensor]:
    states = {"rng/cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["rng/cuda"] = torch.cuda.get_rng_state()
    return states


def _copy_whole(file: str, tensors: Iterable[tuple[str, Tensor]], memory: HostMemory) -> dict[str, Tensor]:
    copies = {}
    for name, tensor in tensors:
        whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        copies[name] = memory.copy(f"{file}/{name}", whole.detach())
    memory.wait()
    return copies


def _copy_held(file: str, tensors: Iterable[tuple[str, Tensor]], ranks: Ranks, memory: HostMemory, *, copies: bool) -> Held:
    """Copy what this rank is to write. A tensor that is not sharded is the same on all ranks."""
    held = Held()
    for name, tensor in tensors:
        held.shapes[name] = tuple(tensor.shape)
        box = box_of(tensor)
        if (copies or is_first_copy(tensor, ranks.rank)) and box.volume:
            held.shards[name] = Shard(memory.copy(f"{file}/{name}", local_part(tensor)), box.offsets)
    return held

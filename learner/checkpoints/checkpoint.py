"""The format of a checkpoint, both directions: everything that the next step depends on, as safetensors and JSON.

    step-00000010/  model.safetensors, config.json, tokenizer files   loads in transformers and vLLM
                    trainer.safetensors     optimizer, float32 masters (if the model's file differs), random state
                    reference.safetensors   if there is a KL term; one file for all checkpoints between two resets
                    state.json              LearnerState, with stage and triggers

    write: trainer -> take_snapshot (learner's thread) -> write_snapshot (the saver's thread)
    read:  read_state, then `Policy` from the folder, then load_checkpoint

A folder of that name is complete. Resuming from it gives the very weights of a run that never stopped (bit for bit on CPU).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers.core_model_loading import revert_weight_conversion

from ...common.config.run_files import find_checkpoints
from ...common.errors import ModelError
from ..loss_scale import LossScale
from ..model.policy import set_tensor
from ..ranks import Ranks
from ..reset_triggers import ResetState
from ..schedule import StageState
from ..step import Trainer

FORMAT = 2
MODEL, TRAINER, REFERENCE, STATE = "model.safetensors", "trainer.safetensors", "reference.safetensors", "state.json"
# prefix of the float32 masters' names in trainer.safetensors
MASTER = "master/"
MOMENTS = ("exp_avg", "exp_avg_sq", "step")


class LearnerState(msgspec.Struct, kw_only=True):
    """The learner's counters after `version` steps. Cumulative ones go on after a resume."""

    format: int = FORMAT
    version: int = 0
    generation: int = -1
    reference_epoch: int = 0
    stage: StageState = StageState()
    resets: ResetState = ResetState()
    entropy_coefficient: float = 0.0
    skipped: int = 0
    skipped_in_row: int = 0
    loss_scale: LossScale = LossScale()
    staleness_max: int = 0
    wall_s: float = 0.0
    # seconds by activity: report.SPENT
    spent: dict[str, float] = {}


@dataclass(slots=True)
class Snapshot:
    """A copy of everything that a checkpoint holds, as of one step. Tensors are whole and on the CPU; only rank 0 has them."""

    version: int
    # of the reference
    epoch: int
    # the content of state.json
    state: bytes
    # the content of config.json without its dtype
    config: dict[str, Any]
    # float32, by parameter name
    policy: dict[str, Tensor]
    # the same under the names and in the shapes of the model's own files, which differ for mixtures of experts
    files: dict[str, Tensor]
    # "exp_avg/NAME", ...; empty right after a reset of the optimizer
    optimizer: dict[str, Tensor]
    # "rng/cpu" [ranks, bytes]
    rng: dict[str, Tensor]
    # empty without a KL term, or when the file on the disk is linked instead
    reference: dict[str, Tensor]


def checkpoint_path(folder: Path, version: int) -> Path:
    """Return the path that the checkpoint of `version` has or would have."""
    return folder / f"step-{version:08d}"


def find_newest(folder: Path) -> Path | None:
    """Find the newest complete checkpoint in `folder`; None if there is none."""
    return next(reversed(find_checkpoints(folder).values()), None)


def take_snapshot(state: LearnerState, trainer: Trainer, ranks: Ranks, *, with_reference: bool) -> Snapshot:
    """Copy everything. Collective.

    The numbers that `load_checkpoint` gives back to the trainer are read from the trainer, not from `state`.
    """
    frozen = trainer.reference
    epoch = frozen.epoch if frozen else 0
    written = msgspec.structs.replace(
        state,
        reference_epoch=epoch,
        entropy_coefficient=trainer.entropy_coefficient,
        skipped=trainer.skipped,
        skipped_in_row=trainer.skipped_in_row,
        loss_scale=trainer.loss_scale,
    )
    rng = {"rng/cpu": torch.stack(ranks.gather(torch.get_rng_state()))}
    if torch.cuda.is_available():
        rng["rng/cuda"] = torch.stack(ranks.gather(torch.cuda.get_rng_state()))
    policy = _copy_to_first(trainer.policy.full_parameters(), ranks)
    return Snapshot(
        version=state.version,
        epoch=epoch,
        state=encode_state(written),
        config=msgspec.json.decode(trainer.policy.causal.config.to_json_string()),
        policy=policy,
        files=revert_weight_conversion(trainer.policy.causal, policy),
        optimizer=_copy_to_first(_moments(trainer), ranks),
        rng=rng,
        reference=_copy_to_first(frozen.policy.full_parameters(), ranks) if frozen and with_reference else {},
    )


def write_snapshot(snapshot: Snapshot, folder: Path, *, dtype: torch.dtype) -> None:
    """Fill `folder` with the files of a checkpoint, the model in `dtype`. Raises: OSError, SafetensorError."""
    masters: dict[str, Tensor] = {}
    converted = snapshot.files.keys() != snapshot.policy.keys()
    if dtype is not torch.float32 or converted:
        masters = {f"{MASTER}{name}": tensor for name, tensor in snapshot.policy.items()}
    # tensors of the files may be parts of one parameter, and safetensors refuses tensors that share memory
    exported = {name: tensor.to(dtype, copy=converted).contiguous() for name, tensor in snapshot.files.items()}
    save_file(exported, folder / MODEL, metadata={"format": "pt"})
    save_file(snapshot.optimizer | masters | snapshot.rng, folder / TRAINER)
    if snapshot.reference:
        save_file(snapshot.reference, folder / REFERENCE)
    config = snapshot.config | {"dtype": str(dtype).removeprefix("torch.")}
    (folder / "config.json").write_bytes(msgspec.json.format(msgspec.json.encode(config)))
    (folder / STATE).write_bytes(snapshot.state)


def encode_state(state: LearnerState) -> bytes:
    """Encode as JSON, non-finite numbers as text ("inf"): JSON has none, and null would not decode to a float."""
    return msgspec.json.format(msgspec.json.encode(_spell_non_finite(msgspec.to_builtins(state))))


def read_state(checkpoint: Path) -> LearnerState:
    """Read the counters. Raises: ModelError for a file that is damaged or of another format."""
    try:
        state = msgspec.json.decode((checkpoint / STATE).read_bytes(), type=LearnerState, strict=False)
    except (OSError, msgspec.MsgspecError) as error:
        raise ModelError(f"{checkpoint}/{STATE} cannot be read ({error}); {_way_out(checkpoint, error)}") from error
    if state.format != FORMAT:
        raise ModelError(
            f"{checkpoint} has format {state.format}: expected {FORMAT}; resume it with the version of prolong that wrote it"
        )
    return state


def load_checkpoint(checkpoint: Path, state: LearnerState, trainer: Trainer, ranks: Ranks) -> None:
    """Bring the trainer, its reference and the random state to where they were. Raises: ModelError.

    The trainer's policy has already been loaded from `checkpoint`.
    """
    if trainer.reference and not (checkpoint / REFERENCE).is_file():
        raise ModelError(
            f"{checkpoint} holds no {REFERENCE}: it was written with objective.kl_beta = 0, or the file was removed; set "
            f"objective.kl_beta=0 to go on without a KL term, or begin another run: run.name=ANOTHER model.path={checkpoint}"
        )
    try:
        stored = load_file(checkpoint / TRAINER)
        frozen = load_file(checkpoint / REFERENCE) if trainer.reference else {}
    except (OSError, SafetensorError) as error:
        raise _damaged(checkpoint, error) from error
    masters = {name.removeprefix(MASTER): tensor for name, tensor in stored.items() if name.startswith(MASTER)}
    if masters:
        trainer.policy.copy_parameters(masters)
    if trainer.reference:
        trainer.reference.policy.copy_parameters(frozen)
        trainer.reference.epoch = state.reference_epoch
    for name, parameter in trainer.policy.causal.named_parameters():
        moments = {kind: stored[f"{kind}/{name}"] for kind in MOMENTS if f"{kind}/{name}" in stored}
        if moments:
            trainer.optimizer.state[parameter] = {kind: _like(parameter, kind, value) for kind, value in moments.items()}
    trainer.skipped, trainer.skipped_in_row = state.skipped, state.skipped_in_row
    trainer.loss_scale = state.loss_scale
    trainer.entropy_coefficient = state.entropy_coefficient
    _set_rng(stored, ranks)


def load_weights(checkpoint: Path) -> dict[str, Tensor]:
    """Load the policy of a checkpoint by name, on the CPU: the float32 masters if it has them, else the model itself.

    Raises: ModelError.
    """
    if not checkpoint.is_dir():
        raise ModelError(
            f"{checkpoint} is not there any more: a reset with reference.source = best needs it; set reference.source=current"
        )
    try:
        with safe_open(checkpoint / TRAINER, "pt") as stored:
            # safe_open gives no mapping to iterate over
            names = [name for name in stored.keys() if name.startswith(MASTER)]  # noqa: SIM118
            masters = {name.removeprefix(MASTER): stored.get_tensor(name) for name in names}
        return masters or load_file(checkpoint / MODEL)
    except (OSError, SafetensorError) as error:
        raise _damaged(checkpoint, error) from error


def _moments(trainer: Trainer) -> Iterator[tuple[str, Tensor]]:
    """Yield the optimizer's tensors by name, whole. Collective like `full_parameters`."""
    for name, parameter in trainer.policy.causal.named_parameters():
        moments: dict[str, Any] = trainer.optimizer.state.get(parameter, {})
        for kind in MOMENTS:
            if kind in moments:
                value = moments[kind]
                yield f"{kind}/{name}", value.full_tensor() if isinstance(value, DTensor) else value


def _copy_to_first(tensors: Iterator[tuple[str, Tensor]], ranks: Ranks) -> dict[str, Tensor]:
    """Copy to the CPU of rank 0. The other ranks take part in gathering and keep nothing."""
    copies = {}
    for name, tensor in tensors:
        if ranks.first:
            copies[name] = tensor.detach().to("cpu", copy=True).contiguous()
    return copies


def _damaged(checkpoint: Path, error: Exception) -> ModelError:
    return ModelError(f"{checkpoint} cannot be read ({error}); {_way_out(checkpoint, error)}")


def _way_out(checkpoint: Path, error: Exception) -> str:
    """What to do about a checkpoint that cannot be read."""
    if isinstance(error, PermissionError):
        return "may this user read it?"
    older = [path for path in find_checkpoints(checkpoint.parent).values() if path.name < checkpoint.name]
    if older:
        return f"delete it to resume from {older[-1].name}"
    return "there is no older one: delete it to begin again from model.path"


def _spell_non_finite(value: Any) -> Any:
    """Replace floats that are not finite by text, at any depth."""
    if isinstance(value, dict):
        return {key: _spell_non_finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_spell_non_finite(each) for each in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _set_rng(stored: dict[str, Tensor], ranks: Ranks) -> None:
    """Restore the random state, if the number of ranks is the same: with another number no state would continue the run."""
    if len(stored["rng/cpu"]) == ranks.size:
        torch.set_rng_state(stored["rng/cpu"][ranks.rank].clone())
        if torch.cuda.is_available() and "rng/cuda" in stored:
            torch.cuda.set_rng_state(stored["rng/cuda"][ranks.rank].clone())


def _like(parameter: Tensor, kind: str, whole: Tensor) -> Tensor:
    """A moment placed and sharded like its parameter; the step counter is a plain scalar."""
    if kind == "step":
        return whole.to(parameter.device)
    empty = torch.empty_like(parameter, requires_grad=False)
    set_tensor(empty, whole)
    return empty

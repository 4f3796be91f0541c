"""Checkpoints: everything that the next step depends on, as safetensors and JSON. This file reads them, saver.py writes them.

    step-00000010/  model.safetensors, config.json, tokenizer files   loads in transformers and vLLM
                    trainer.safetensors     optimizer, float32 masters (if the model is not float32), random state
                    reference.safetensors   if there is a KL term; one file for all checkpoints between two resets
                    state.json              LearnerState, stage and triggers included

A folder of that name is whole. Resuming from it gives the very weights of a run that never stopped (bit for bit on CPU).
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from ...common.errors import ModelError
from ..model.policy import set_tensor
from ..model.reference import ResetState
from ..ranks import Ranks
from ..stages import StageState
from ..step import Trainer

FORMAT = 2
MODEL, TRAINER, REFERENCE, STATE = "model.safetensors", "trainer.safetensors", "reference.safetensors", "state.json"
MASTER = "master/"  # prefix in trainer.safetensors
MOMENTS = ("exp_avg", "exp_avg_sq", "step")


class LearnerState(msgspec.Struct, kw_only=True):
    """The learner's counters. `version` steps were taken; what is cumulative survives a resume."""

    format: int = FORMAT
    version: int = 0
    generation: int = -1
    reference_epoch: int = 0
    stage: StageState = StageState()
    resets: ResetState = ResetState()
    entropy_coefficient: float = 0.0
    skipped: int = 0
    skipped_in_row: int = 0
    staleness_max: int = 0
    wall_s: float = 0.0
    spent: dict[str, float] = {}  # seconds by what they were spent on


def checkpoint_path(folder: Path, version: int) -> Path:
    """Where the checkpoint of `version` is, or would be."""
    return folder / f"step-{version:08d}"


def find_all(folder: Path) -> dict[int, Path]:
    """The whole checkpoints in `folder` by version, ascending."""
    found = {path.name.removeprefix("step-"): path for path in folder.glob("step-*") if (path / STATE).is_file()}
    return dict(sorted((int(version), path) for version, path in found.items() if version.isdecimal()))


def find_newest(folder: Path) -> Path | None:
    """The newest whole checkpoint in `folder`, if there is one."""
    return next(reversed(find_all(folder).values()), None)


def encode_state(state: LearnerState) -> bytes:
    """JSON with non-finite numbers as text ("inf"): JSON has none, and null would not decode to a float."""
    return msgspec.json.format(msgspec.json.encode(_spell(msgspec.to_builtins(state))))


def read_state(checkpoint: Path) -> LearnerState:
    """Raises ModelError for a file that is damaged or of another format."""
    try:
        state = msgspec.json.decode((checkpoint / STATE).read_bytes(), type=LearnerState, strict=False)
    except (OSError, msgspec.MsgspecError) as error:
        raise ModelError(
            f"{checkpoint}/{STATE} cannot be read ({error}); delete that checkpoint to resume from an older one"
        ) from error
    if state.format != FORMAT:
        raise ModelError(
            f"{checkpoint} has format {state.format}: expected {FORMAT}; resume it with the version of prolong that wrote it"
        )
    return state


def load_checkpoint(checkpoint: Path, state: LearnerState, trainer: Trainer, ranks: Ranks) -> None:
    """Bring trainer (its policy was loaded from `checkpoint`), reference and RNG to where they were. Raises ModelError."""
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
    trainer.entropy_coefficient = state.entropy_coefficient
    _set_rng(stored, ranks)


def load_weights(checkpoint: Path) -> dict[str, Tensor]:
    """The policy of a checkpoint by name, on the CPU: the float32 masters if it has them, else the model itself.

    Raises: ModelError.
    """
    try:
        with safe_open(checkpoint / TRAINER, "pt") as stored:
            names = [name for name in stored.keys() if name.startswith(MASTER)]  # noqa: SIM118  no mapping
            masters = {name.removeprefix(MASTER): stored.get_tensor(name) for name in names}
        return masters or load_file(checkpoint / MODEL)
    except (OSError, SafetensorError) as error:
        raise _damaged(checkpoint, error) from error


def _damaged(checkpoint: Path, error: Exception) -> ModelError:
    return ModelError(f"{checkpoint} cannot be read ({error}); delete it to resume from an older one")


def _spell(value: Any) -> Any:
    """Plain values with non-finite floats as text."""
    if isinstance(value, dict):
        return {key: _spell(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_spell(each) for each in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _set_rng(stored: dict[str, Tensor], ranks: Ranks) -> None:
    """Only when the number of ranks is what it was: nothing else would be a continuation."""
    if len(stored["rng/cpu"]) == ranks.size:
        torch.set_rng_state(stored["rng/cpu"][ranks.rank].clone())
        if torch.cuda.is_available() and "rng/cuda" in stored:
            torch.cuda.set_rng_state(stored["rng/cuda"][ranks.rank].clone())


def _like(parameter: Tensor, kind: str, whole: Tensor) -> Tensor:
    if kind == "step":
        return whole.to(parameter.device)
    empty = torch.empty_like(parameter, requires_grad=False)
    set_tensor(empty, whole)
    return empty

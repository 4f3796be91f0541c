"""The format of a checkpoint, and the way back: everything that the next step depends on, as safetensors and JSON.

    step-00000010/  model.safetensors, config.json, tokenizer files   loads in transformers and vLLM
                    trainer.safetensors     optimizer, float32 masters (if the model's file differs), random state
                    reference.safetensors   if there is a KL term; one file for all checkpoints between two resets
                    state.json              LearnerState, with stage and triggers

Several ranks write a file each, in place of the first, second and third: policy-00002-of-00004.safetensors (float32 masters),
trainer-... and reference-... with the parts that the rank holds (shards.py). Any number of ranks reads any of these.

    write: trainer -> take_snapshot (snapshot.py, learner's thread) -> write_snapshot (the saver's thread)
    read:  read_state, then `Policy`, then load_checkpoint

A folder of that name is complete. Resuming from it gives the very weights of a run that never stopped (bit for bit on CPU, with
as many ranks).
"""

from __future__ import annotations

import math
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError
from torch import Tensor

from ...common.adapters import BASE, SCALE
from ...common.config.run_files import find_checkpoints
from ...common.errors import ModelError
from ..alerts import AlertState
from ..loss_scale import LossScale
from ..model.policy import Policy
from ..ranks import Ranks
from ..reset_triggers import ResetState
from ..schedule import StageState
from ..step import Trainer
from .shards import Box, MissingPart, StoredTensors, shard_path

FORMAT, SHARDED_FORMAT = 2, 3
MODEL, TRAINER, REFERENCE, STATE = "model.safetensors", "trainer.safetensors", "reference.safetensors", "state.json"
# the masters' own file, which several ranks have
POLICY = "policy.safetensors"
# prefix of the float32 masters' names in trainer.safetensors
MASTER = "master/"
MOMENTS = ("exp_avg", "exp_avg_sq", "step")


class LearnerState(msgspec.Struct, kw_only=True):
    """The learner's counters after `version` steps. Cumulative ones go on after a resume."""

    format: int = FORMAT
    version: int = 0
    generation: int = -1
    # of the learner that wrote the checkpoint; each of several wrote its own files
    ranks: int = 1
    reference_epoch: int = 0
    stage: StageState = StageState()
    resets: ResetState = ResetState()
    alerts: AlertState = AlertState()
    entropy_coefficient: float = 0.0
    skipped: int = 0
    skipped_in_row: int = 0
    loss_scale: LossScale = LossScale()
    staleness_max: int = 0
    wall_s: float = 0.0
    # seconds by activity: report.SPENT
    spent: dict[str, float] = {}


def checkpoint_path(folder: Path, version: int) -> Path:
    """Return the path that the checkpoint of `version` has or would have."""
    return folder / f"step-{version:08d}"


def find_newest(folder: Path) -> Path | None:
    """Find the newest complete checkpoint in `folder`; None if there is none."""
    return next(reversed(find_checkpoints(folder).values()), None)


def find_newest_of_all(folder: Path, ranks: Ranks) -> Path | None:
    """Find rank 0's newest checkpoint, which every rank must have: nodes may have disks of their own. Collective.

    Raises: ModelError on a rank that does not have it.
    """
    newest = find_newest(folder) if ranks.first else None
    name = ranks.broadcast_bytes((newest.name if newest else "").encode() if ranks.first else None).decode()
    if name and not (folder / name / STATE).is_file():
        raise ModelError(
            f"{folder / name} is not on the disk of {socket.gethostname()}, but the run goes on from it: copy it there from "
            "the node that wrote it for this rank, or put run.root on a disk that the nodes share"
        )
    return folder / name if name else None


def stored_file(checkpoint: Path, name: str, rank: int, ranks: int) -> Path:
    """Return the path of POLICY, TRAINER or REFERENCE in a checkpoint of so many ranks."""
    return checkpoint / name if ranks == 1 else shard_path(checkpoint, name.removesuffix(".safetensors"), rank, ranks)


def encode_state(state: LearnerState) -> bytes:
    """Encode as JSON, non-finite numbers as text ("inf"): JSON has none, and null would not decode to a float."""
    return msgspec.json.format(msgspec.json.encode(_spell_non_finite(msgspec.to_builtins(state))))


def read_state(checkpoint: Path) -> LearnerState:
    """Read the counters. Raises: ModelError for a file that is damaged or of another format."""
    try:
        state = msgspec.json.decode((checkpoint / STATE).read_bytes(), type=LearnerState, strict=False)
    except (OSError, msgspec.MsgspecError) as error:
        raise ModelError(f"{checkpoint}/{STATE} cannot be read ({error}); {_way_out(checkpoint, error)}") from error
    if state.format not in (FORMAT, SHARDED_FORMAT):
        raise ModelError(
            f"{checkpoint} has format {state.format}: expected {FORMAT} or {SHARDED_FORMAT}; resume it with the version of "
            "prolong that wrote it"
        )
    return state


def load_checkpoint(checkpoint: Path, state: LearnerState, trainer: Trainer, ranks: Ranks) -> None:
    """Bring policy, optimizer, reference and random state to where they were. Raises: ModelError.

    Every rank reads the parts that it holds, however many ranks wrote the checkpoint.
    """
    held = _files(checkpoint, state, REFERENCE)
    if trainer.reference and not held:
        raise ModelError(
            f"{checkpoint} holds no {REFERENCE}: it was written with objective.kl_beta = 0, or the file was removed; set "
            f"objective.kl_beta=0 to go on without a KL term, or begin another run: run.name=ANOTHER model.path={checkpoint}"
        )
    fill_policy(trainer.policy, checkpoint)
    if trainer.reference:
        with _reading(checkpoint, state, held) as stored:
            _fill(trainer.reference.stored_tensors(), stored, {name: name for name in stored.shapes})
        trainer.reference.epoch = state.reference_epoch
    with _reading(checkpoint, state, _files(checkpoint, state, TRAINER)) as stored:
        for name, parameter in trainer.policy.causal.named_parameters():
            kinds = [kind for kind in MOMENTS if f"{kind}/{name}" in stored.shapes]
            if kinds:
                trainer.optimizer.state[parameter] = {kind: _moment(stored, kind, name, parameter) for kind in kinds}
        _set_rng(stored, ranks)
    trainer.skipped, trainer.skipped_in_row = state.skipped, state.skipped_in_row
    trainer.loss_scale = state.loss_scale
    trainer.entropy_coefficient = state.entropy_coefficient


def fill_policy(policy: Policy, checkpoint: Path) -> None:
    """Fill the policy with that of a checkpoint, every rank the parts that it holds. Raises: ModelError."""
    with open_policy(checkpoint) as (stored, names):
        _fill(policy.stored_tensors(), stored, names)


def return_to_best(policy: Policy, checkpoint: Path) -> None:
    """As `fill_policy`, for a reset to the version with the best score. Raises: ModelError."""
    if not checkpoint.is_dir():
        raise ModelError(
            f"{checkpoint} is not there any more: a reset with reference.source = best needs it; set reference.source=current"
        )
    fill_policy(policy, checkpoint)


@contextmanager
def open_policy(checkpoint: Path) -> Iterator[tuple[StoredTensors, Mapping[str, str]]]:
    """Open the float32 masters, or the model where they are the same; yields the files, and name -> name in the files.

    Raises: ModelError, also for what goes wrong in the block.
    """
    state = read_state(checkpoint)
    with _reading(checkpoint, state, _files(checkpoint, state, POLICY)) as stored:
        names = {name.removeprefix(MASTER): name for name in stored.shapes if name.startswith(MASTER)}
        if state.ranks > 1:
            names = {name: name for name in stored.shapes}
        if names:
            yield stored, names
            return
    with _reading(checkpoint, state, [checkpoint / MODEL]) as stored:
        yield stored, {name: name for name in stored.shapes}


def is_sharded(checkpoint: Path) -> bool:
    """Whether several ranks wrote the checkpoint, so that transformers cannot load it. Raises: ModelError."""
    return read_state(checkpoint).ranks > 1


def _files(checkpoint: Path, state: LearnerState, name: str) -> list[Path]:
    """The files of POLICY, TRAINER or REFERENCE; those of ranks, and that of the reference, as far as they are here."""
    if state.ranks == 1:
        path = checkpoint / (TRAINER if name == POLICY else name)
        return [path] if name != REFERENCE or path.is_file() else []
    paths = (stored_file(checkpoint, name, rank, state.ranks) for rank in range(state.ranks))
    return [path for path in paths if path.is_file()]


@contextmanager
def _reading(checkpoint: Path, state: LearnerState, files: list[Path]) -> Iterator[StoredTensors]:
    """Open files of a checkpoint; what goes wrong in the block becomes a ModelError that says what to do."""
    try:
        if not files:
            raise MissingPart("no file of its ranks is here")
        with StoredTensors(files) as stored:
            yield stored
    except (OSError, SafetensorError, MissingPart) as error:
        absent = [
            path.name
            for name in (POLICY, TRAINER)
            for rank in range(state.ranks)
            if state.ranks > 1 and not (path := stored_file(checkpoint, name, rank, state.ranks)).is_file()
        ]
        if absent:
            raise ModelError(
                f"{checkpoint} cannot be read ({error}): {', '.join(absent)} is not there. Each of {state.ranks} ranks saved "
                "its part on its own node: bring all files to every node, or resume with the ranks where they were; else "
                f"{_way_out(checkpoint, error)}"
            ) from error
        raise _damaged(checkpoint, error) from error


# what tells adapters from those of another run, and what to do then
_SAME = {
    BASE: "the checkpoint's were trained beside other weights than model.path has; give it the model that the run began with",
    SCALE: "the checkpoint's have another alpha / rank than model.lora; give it the settings that the run began with",
}


def _fill(targets: Iterable[tuple[str, Tensor]], stored: StoredTensors, names: Mapping[str, str]) -> None:
    """Fill tensors from stored ones, by name -> name in the files.

    Raises: ModelError when names or shapes differ, or adapters belong to another base.
    """
    own = dict(targets)
    if own.keys() != names.keys():
        raise ModelError(f"weights of another model: {sorted(own.keys() ^ names.keys())[:3]} are on one side only")
    for name, tensor in own.items():
        shape = stored.shapes[names[name]]
        if tensor.shape != shape:
            raise ModelError(f"weights of another model: {name} is {list(shape)}, expected {list(tensor.shape)}")
        if name in _SAME and not torch.equal(stored.read(names[name]), tensor.cpu()):
            raise ModelError(f"adapters of another run: {_SAME[name]}")
        stored.fill(names[name], tensor)


def _moment(stored: StoredTensors, kind: str, name: str, parameter: Tensor) -> Tensor:
    """A moment placed and sharded like its parameter; the step counter is a plain scalar."""
    if kind == "step":
        return stored.read(f"{kind}/{name}").to(parameter.device)
    moment = torch.empty_like(parameter, requires_grad=False)
    stored.fill(f"{kind}/{name}", moment)
    return moment


def _set_rng(stored: StoredTensors, ranks: Ranks) -> None:
    """Restore the random state, if the number of ranks is the same: with another number no state would continue the run."""
    for name, restore in (("rng/cpu", torch.set_rng_state), ("rng/cuda", torch.cuda.set_rng_state)):
        shape = stored.shapes.get(name)
        if shape is not None and shape[0] == ranks.size and (name == "rng/cpu" or torch.cuda.is_available()):
            restore(stored.read(name, Box((ranks.rank, 0), (1, shape[1])))[0].clone())


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

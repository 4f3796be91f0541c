"""Checkpoints: everything that the next step depends on, as safetensors and JSON, whole or not there at all.

    step-00000010/  model.safetensors, config.json, tokenizer files   loads in transformers and vLLM
                    trainer.safetensors                               optimizer, float32 masters (if the model is not
                    float32), RNG reference.safetensors                             if there is a KL term
                    state.json                                        LearnerState

Written under another name, synced, renamed. Resuming from one gives the very weights of a run that never stopped (bit for
bit on CPU).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributed.tensor import DTensor

from ..common.errors import ModelError
from ..common.models import DTYPES
from .policy import set_tensor
from .ranks import Ranks
from .step import Trainer

FORMAT = 1
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja",
    "vocab.json", "merges.txt", "tokenizer.model", "generation_config.json",
)  # fmt: skip
MOMENTS = ("exp_avg", "exp_avg_sq", "step")


class LearnerState(msgspec.Struct, kw_only=True):
    """The learner's counters. `version` steps were taken; what is cumulative survives a resume."""

    format: int = FORMAT
    version: int = 0
    generation: int = -1
    reference_epoch: int = 0
    skipped: int = 0
    skipped_in_row: int = 0
    staleness_max: int = 0
    wall_s: float = 0.0
    spent: dict[str, float] = {}  # seconds by what they were spent on


def find_newest(folder: Path) -> Path | None:
    """The newest whole checkpoint in `folder`, if there is one."""
    found = sorted(path for path in folder.glob("step-*") if (path / "state.json").is_file())
    return found[-1] if found else None


def read_state(checkpoint: Path) -> LearnerState:
    """Raises ModelError for a file that is damaged or of another format."""
    try:
        state = msgspec.json.decode((checkpoint / "state.json").read_bytes(), type=LearnerState)
    except (OSError, msgspec.MsgspecError) as error:
        raise ModelError(
            f"{checkpoint}/state.json cannot be read ({error}); delete that checkpoint to resume from an older one"
        ) from error
    if state.format != FORMAT:
        raise ModelError(
            f"{checkpoint} has format {state.format}: expected {FORMAT}; resume it with the version of prolong that wrote it"
        )
    return state


def save_checkpoint(
    folder: Path, state: LearnerState, trainer: Trainer, ranks: Ranks, *, dtype: str, source: Path | None, keep: int
) -> Path:
    """Write step-VERSION in `folder` and keep the newest `keep`. Collective; rank 0 writes, the others return when it has.

    `source`: folder whose tokenizer files are copied.
    """
    target = folder / f"step-{state.version:08d}"
    policy = _gather(trainer.policy.full_parameters(), ranks)
    optimizer = _gather(_moments(trainer), ranks)
    reference = _gather(trainer.reference.policy.full_parameters() if trainer.reference else iter(()), ranks)
    rng = {"rng/cpu": torch.stack(ranks.gather(torch.get_rng_state()))}
    if torch.cuda.is_available():
        rng["rng/cuda"] = torch.stack(ranks.gather(torch.cuda.get_rng_state()))
    if ranks.first:
        scratch = folder / f".{target.name}.{os.getpid()}"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        kept = DTYPES[dtype]
        masters = {} if kept is torch.float32 else {f"master/{name}": tensor for name, tensor in policy.items()}
        exported = {name: tensor.to(kept) for name, tensor in policy.items()}
        save_file(exported, scratch / "model.safetensors", metadata={"format": "pt"})
        save_file(optimizer | masters | rng, scratch / "trainer.safetensors")
        if reference:
            save_file(reference, scratch / "reference.safetensors")
        _write_config(scratch, trainer.policy.causal.config, dtype, source)
        (scratch / "state.json").write_bytes(msgspec.json.format(msgspec.json.encode(state)))
        _publish_folder(scratch, target)
        _prune(folder, keep)
    ranks.barrier()
    return target


def load_checkpoint(checkpoint: Path, state: LearnerState, trainer: Trainer, ranks: Ranks) -> None:
    """Bring trainer (its policy was loaded from `checkpoint`), reference and RNG to where they were. Raises ModelError."""
    try:
        stored = load_file(checkpoint / "trainer.safetensors")
        frozen = load_file(checkpoint / "reference.safetensors") if trainer.reference else {}
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{checkpoint} cannot be read ({error}); delete it to resume from an older one") from error
    masters = {name.removeprefix("master/"): tensor for name, tensor in stored.items() if name.startswith("master/")}
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
    _set_rng(stored, ranks)


def _set_rng(stored: dict[str, Tensor], ranks: Ranks) -> None:
    """Only when the number of ranks is what it was: nothing else would be a continuation."""
    if len(stored["rng/cpu"]) == ranks.size:
        torch.set_rng_state(stored["rng/cpu"][ranks.rank].clone())
        if torch.cuda.is_available() and "rng/cuda" in stored:
            torch.cuda.set_rng_state(stored["rng/cuda"][ranks.rank].clone())


def _moments(trainer: Trainer) -> Iterator[tuple[str, Tensor]]:
    """The optimizer's tensors by name, whole; collective like `full_parameters`."""
    for name, parameter in trainer.policy.causal.named_parameters():
        moments: dict[str, Any] = trainer.optimizer.state.get(parameter, {})
        for kind in MOMENTS:
            if kind in moments:
                value = moments[kind]
                yield f"{kind}/{name}", value.full_tensor() if isinstance(value, DTensor) else value


def _like(parameter: Tensor, kind: str, whole: Tensor) -> Tensor:
    if kind == "step":
        return whole.to(parameter.device)
    empty = torch.empty_like(parameter, requires_grad=False)
    set_tensor(empty, whole)
    return empty


def _gather(tensors: Iterator[tuple[str, Tensor]], ranks: Ranks) -> dict[str, Tensor]:
    """Copies on the CPU of rank 0; the others take part and keep nothing."""
    whole = {}
    for name, tensor in tensors:
        if ranks.first:
            whole[name] = tensor.detach().to("cpu", copy=True).contiguous()
    return whole


def _write_config(folder: Path, config: Any, dtype: str, source: Path | None) -> None:
    config.to_json_file(folder / "config.json")
    written = msgspec.json.decode((folder / "config.json").read_bytes())
    (folder / "config.json").write_bytes(msgspec.json.format(msgspec.json.encode(written | {"dtype": dtype})))
    for name in TOKENIZER_FILES:
        if source is not None and (source / name).is_file():
            shutil.copyfile(source / name, folder / name)


def _publish_folder(scratch: Path, target: Path) -> None:
    """Sync every file, then rename: a crash leaves the whole folder or none."""
    for path in scratch.iterdir():
        _sync(path)
    _sync(scratch)
    shutil.rmtree(target, ignore_errors=True)  # of this very version, by a timeline that was resumed from before it
    scratch.rename(target)
    _sync(target.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _prune(folder: Path, keep: int) -> None:
    """Remove all but the newest, and what a crash left half-written."""
    for path in sorted(folder.glob("step-*"))[:-keep]:
        shutil.rmtree(path)
    for path in folder.glob(".step-*"):
        shutil.rmtree(path, ignore_errors=True)

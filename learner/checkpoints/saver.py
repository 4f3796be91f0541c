"""A thread writes checkpoints while the learner goes on. Whenever the process dies, a checkpoint is complete or absent.

    main loop --save--> snapshot --thread--> .step-00000010.PID/ -> sync -> rename -> step-00000010/ -> remove older ones
    main loop <--durable-- versions that have reached the disk --CheckpointSaved--> buffer

A folder is written, and later removed, under a name that begins with a dot, which no reader takes for a checkpoint.
"""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from safetensors import SafetensorError

from ...common.config.run_files import find_checkpoints
from ...common.errors import CheckpointError, ProlongError
from ...common.models import DTYPES
from ..ranks import Ranks
from ..step import Trainer
from .checkpoint import (
    REFERENCE,
    LearnerState,
    Snapshot,
    checkpoint_path,
    read_state,
    take_snapshot,
    write_snapshot,
)

# longest wait for one checkpoint to be written; a disk that takes longer has hung
WRITE_S = 600.0
NO_LINKS = (errno.EPERM, errno.EXDEV, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja",
    "vocab.json", "merges.txt", "tokenizer.model", "generation_config.json",
)  # fmt: skip


@dataclass(slots=True, frozen=True)
class SavedReference:
    """A file that is known to hold the reference of `epoch`: this process wrote it, or loaded the reference from it.

    The inode tells it from a file of the same name that another generation of the run left.
    """

    epoch: int
    path: Path
    inode: tuple[int, int]

    @staticmethod
    def at(checkpoint: Path, epoch: int) -> SavedReference | None:
        """The file in a checkpoint; None if the checkpoint has no reference."""
        path = checkpoint / REFERENCE
        return SavedReference(epoch, path, _inode(path)) if path.is_file() else None

    def holds(self, epoch: int) -> bool:
        """Whether the file still exists and is of that epoch."""
        return self.epoch == epoch and self.path.is_file() and _inode(self.path) == self.inode


class Checkpointer:
    """Saves into `folder`, and removes the half-written folders of dead processes there. Rank 0 writes; others keep in step.

    One checkpoint is written at a time, each by its own thread. The next `save`, `wait` or `close` raises its failure.
    """

    def __init__(
        self, folder: Path, ranks: Ranks, *, dtype: str, source: Path | None, keep: int, resumed: Path | None = None
    ) -> None:
        """`source`: folder whose tokenizer files every checkpoint gets. `resumed`: checkpoint that the trainer was loaded from.

        Raises: CheckpointError when `folder` cannot be used, ModelError when `resumed` cannot be read.
        """
        self._folder, self._ranks, self._dtype, self._keep = folder, ranks, DTYPES[dtype], keep
        self._thread: threading.Thread | None = None
        self._failure: ProlongError | None = None
        self._durable: deque[int] = deque()
        self._numbers = {"checkpoint/waited_s": 0.0, "checkpoint/snapshot_s": 0.0, "checkpoint/write_s": 0.0}
        self._reference: SavedReference | None = None
        self._tokenizer: dict[str, bytes] = {}
        if not ranks.first:
            return
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _sync(folder.parent)
            for path in folder.glob(".step-*"):
                shutil.rmtree(path)
        except OSError as error:
            raise CheckpointError(f"cannot keep checkpoints in {folder}: {error}; may this user write there?") from error
        if source is not None:
            files = (source / name for name in TOKENIZER_FILES)
            self._tokenizer = {path.name: path.read_bytes() for path in files if path.is_file()}
        if resumed is not None:
            self._reference = SavedReference.at(resumed, read_state(resumed).reference_epoch)

    def save(self, state: LearnerState, trainer: Trainer, *, protect: frozenset[int] = frozenset()) -> None:
        """Copy everything and return; a thread then writes the checkpoint of `state.version`. Collective.

        Once it is durable, all complete checkpoints are removed except the newest `keep` and those of the versions in
        `protect`. Checkpoints of later versions are removed too: another generation made them. Blocks while the checkpoint
        before is still being written, WRITE_S at most; `checkpoint/waited_s` counts the seconds.
        Raises: CheckpointError of the checkpoint before.
        """
        self.wait()
        started = perf_counter()
        with_reference = not self._reference_is_saved(trainer)
        snapshot = take_snapshot(state, trainer, self._ranks, with_reference=with_reference)
        self._numbers["checkpoint/snapshot_s"] = perf_counter() - started
        if self._ranks.first:
            linked = None if with_reference else self._reference
            self._thread = threading.Thread(
                target=self._write, args=(snapshot, linked, protect), name=f"checkpoint-{state.version}", daemon=True
            )
            self._thread.start()

    def durable(self) -> list[int]:
        """Return the versions that became durable since the last call. On rank 0 only."""
        return [self._durable.popleft() for _ in range(len(self._durable))]

    def wait(self) -> None:
        """Wait until nothing is being written. Raises: CheckpointError for a failed write, or after WRITE_S."""
        if self._thread is not None:
            started = perf_counter()
            self._thread.join(WRITE_S)
            self._numbers["checkpoint/waited_s"] += perf_counter() - started
            if self._thread.is_alive():
                raise CheckpointError(
                    f"{self._thread.name} is not on disk in {self._folder} after {WRITE_S:g} s; does that disk still answer?"
                )
            self._thread = None
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def close(self) -> None:
        """Wait for the last checkpoint; `durable` may be called once more afterwards. Raises as `wait`."""
        self.wait()

    def metrics(self) -> dict[str, float]:
        """Return seconds: waited for the disk since the start; of the last snapshot; of the last completed write."""
        return dict(self._numbers)

    def _reference_is_saved(self, trainer: Trainer) -> bool:
        """Whether the file of the reference can be linked. Collective: rank 0 decides."""
        answer = None
        if self._ranks.first:
            saved = self._reference
            answer = b"y" if trainer.reference and saved and saved.holds(trainer.reference.epoch) else b"n"
        return self._ranks.broadcast_bytes(answer) == b"y"

    def _write(self, snapshot: Snapshot, linked: SavedReference | None, protect: frozenset[int]) -> None:
        """Write, publish and prune. Runs on the thread; keeps a failure for the learner's next call."""
        started = perf_counter()
        target = checkpoint_path(self._folder, snapshot.version)
        scratch = self._folder / f".{target.name}.{os.getpid()}"
        try:
            scratch.mkdir()
            for name, content in self._tokenizer.items():
                (scratch / name).write_bytes(content)
            if linked is not None:
                _link(linked.path, scratch / REFERENCE)
            write_snapshot(snapshot, scratch, dtype=self._dtype)
            _publish(scratch, target)
            self._reference = SavedReference.at(target, snapshot.epoch)
            self._durable.append(snapshot.version)
            self._prune(snapshot.version, protect)
            self._numbers["checkpoint/write_s"] = perf_counter() - started
        except Exception as error:
            self._failure = _explain(error, target)
            shutil.rmtree(scratch, ignore_errors=True)

    def _prune(self, version: int, protect: frozenset[int]) -> None:
        found = find_checkpoints(self._folder)
        before = [saved for saved in found if saved <= version]
        kept = {*before[-self._keep :], *protect.intersection(before)}
        doomed = [_hide(path) for saved, path in found.items() if saved not in kept]
        if doomed:
            # without it a power failure may bring back a name whose files are gone
            _sync(self._folder)
        for path in doomed:
            shutil.rmtree(path)


def _publish(scratch: Path, target: Path) -> None:
    """Sync every file, then rename: a crash leaves the complete folder or none."""
    for path in scratch.iterdir():
        _sync(path)
    _sync(scratch)
    replaced = _hide(target) if target.exists() else None
    scratch.rename(target)
    _sync(target.parent)
    if replaced is not None:
        shutil.rmtree(replaced)


def _hide(checkpoint: Path) -> Path:
    """Rename a checkpoint away: removing its files takes a while, and no reader may find it torn."""
    return checkpoint.rename(checkpoint.with_name(f".{checkpoint.name}.{os.getpid()}.removed"))


def _link(source: Path, target: Path) -> None:
    """Make a hard link, or a copy where the disk has no hard links."""
    try:
        target.hardlink_to(source)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        shutil.copyfile(source, target)


def _explain(error: Exception, target: Path) -> CheckpointError:
    what = f"saving the checkpoint {target} failed: {error!r}"
    if not isinstance(error, OSError | SafetensorError):
        return CheckpointError(what)
    full = "no space" in str(error).lower() or "quota" in str(error).lower()
    room = "make room on that disk or lower checkpoint.keep" if full else "look at that disk"
    return CheckpointError(f"{what}; {room}, then start the run again: it resumes from the newest checkpoint before it")


def _inode(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

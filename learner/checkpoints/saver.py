"""Writes checkpoints while the learner goes on: whole or not there at all, whenever the process dies.

    main loop --save--> snapshot --thread--> .step-00000010.PID/ -> sync -> rename -> step-00000010/ -> remove older ones
    main loop <--durable-- versions that are on the disk by now --CheckpointSaved--> buffer

A name that begins with a dot is no checkpoint: what is written, and what is removed, is under such a name meanwhile.
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

from ...common.errors import CheckpointError, ProlongError
from ...common.models import DTYPES
from ..ranks import Ranks
from ..step import Trainer
from .checkpoint import REFERENCE, LearnerState, checkpoint_path, find_all, read_state
from .snapshot import Snapshot, take_snapshot, write_snapshot

WRITE_S = 600.0  # one checkpoint takes no longer, or its disk hangs
NO_LINKS = (errno.EPERM, errno.EXDEV, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja",
    "vocab.json", "merges.txt", "tokenizer.model", "generation_config.json",
)  # fmt: skip


@dataclass(slots=True, frozen=True)
class SavedReference:
    """The file that holds the reference of `epoch` for certain: this process wrote it, or loaded the reference from it.

    Its inode is what tells it from a file of the same name that another timeline left.
    """

    epoch: int
    path: Path
    inode: tuple[int, int]

    @staticmethod
    def at(checkpoint: Path, epoch: int) -> SavedReference | None:
        """Of a checkpoint, if it holds one."""
        path = checkpoint / REFERENCE
        return SavedReference(epoch, path, _inode(path)) if path.is_file() else None

    def holds(self, epoch: int) -> bool:
        """Whether it is still there and of that epoch."""
        return self.epoch == epoch and self.path.is_file() and _inode(self.path) == self.inode


class Checkpointer:
    """Saves into `folder`; removes there what dead processes left half-written. Rank 0 writes; the others keep in step.

    One checkpoint is written at a time, by a thread that lives as long as that takes. What goes wrong there is raised by the
    next `save`, `wait` or `close`.
    """

    def __init__(
        self, folder: Path, ranks: Ranks, *, dtype: str, source: Path | None, keep: int, resumed: Path | None = None
    ) -> None:
        """`source`: folder whose tokenizer files every checkpoint gets. `resumed`: what the trainer was loaded from.

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
        """Copy everything, then return: the checkpoint of `state.version` is written meanwhile. Collective.

        Once it is durable, all whole checkpoints but the newest `keep` and those of the versions in `protect` are removed,
        and so are those of later versions: another timeline made them. Blocks while the one before is still being written,
        WRITE_S at most; the seconds are counted in `checkpoint/waited_s`. Raises: CheckpointError, of the one before.
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
        """Versions that became durable since the last call. On rank 0 only."""
        return [self._durable.popleft() for _ in range(len(self._durable))]

    def wait(self) -> None:
        """Wait until nothing is being written. Raises: CheckpointError for what failed, or after WRITE_S."""
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
        """The last call: `wait`, then ask `durable` once more."""
        self.wait()

    def metrics(self) -> dict[str, float]:
        """Seconds: waited for the disk since the start; of the last snapshot; of the last writing that ended."""
        return dict(self._numbers)

    def _reference_is_saved(self, trainer: Trainer) -> bool:
        """Whether the file of the reference can be linked. Collective: rank 0 knows."""
        answer = None
        if self._ranks.first:
            saved = self._reference
            answer = b"y" if trainer.reference and saved and saved.holds(trainer.reference.epoch) else b"n"
        return self._ranks.broadcast_bytes(answer) == b"y"

    def _write(self, snapshot: Snapshot, linked: SavedReference | None, protect: frozenset[int]) -> None:
        """The thread."""
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
        found = find_all(self._folder)
        before = [saved for saved in found if saved <= version]
        kept = {*before[-self._keep :], *protect.intersection(before)}
        doomed = [_hide(path) for saved, path in found.items() if saved not in kept]
        if doomed:
            _sync(self._folder)  # else a power failure may bring back a name whose files are gone
        for path in doomed:
            shutil.rmtree(path)


def _publish(scratch: Path, target: Path) -> None:
    """Sync every file, then rename: a crash leaves the whole folder or none."""
    for path in scratch.iterdir():
        _sync(path)
    _sync(scratch)
    replaced = _hide(target) if target.exists() else None
    scratch.rename(target)
    _sync(target.parent)
    if replaced is not None:
        shutil.rmtree(replaced)


def _hide(checkpoint: Path) -> Path:
    """Give up the name at once: removing the files takes a while, and a torn checkpoint must not be found."""
    return checkpoint.rename(checkpoint.with_name(f".{checkpoint.name}.{os.getpid()}.removed"))


def _link(source: Path, target: Path) -> None:
    """One file under two names, or a copy where the disk has no hard links."""
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

"""A thread writes checkpoints while the learner goes on. Whenever the process dies, a checkpoint is complete or absent.

    main loop --save--> snapshot --thread--> .step-00000010.NAME/ -> sync -> rename -> step-00000010/ -> remove older ones
    main loop <--durable-- versions that have reached the disk --CheckpointSaved--> buffer

A folder is written, and later removed, under a name that begins with a dot, which no reader takes for a checkpoint. Each of
several ranks has such a thread, and the folder gets its name when all have written and synced their files. On nodes with disks
of their own the folder of rank 0 is the last to get its name: a version that rank 0 has is complete everywhere.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import torch
from safetensors import SafetensorError

from ...common.config.run_files import find_checkpoints
from ...common.errors import CheckpointError, ProlongError
from ...common.models import DTYPES
from ..model.lora import adapted_layers
from ..model.policy import Policy
from ..model.reference import Reference
from ..ranks import Ranks
from ..step import Trainer
from .checkpoint import REFERENCE, LearnerState, checkpoint_path, read_state, stored_file
from .export import ModelWriter, write_model
from .host_memory import HostMemory
from .snapshot import ShardSnapshot, Snapshot, take_snapshot, write_snapshot
from .writers import Writers

log = logging.getLogger(__name__)

# longest wait for one checkpoint to be written, beside what its bytes take; a disk that takes longer has hung
WRITE_S = 600.0
# bytes a second that a rank writes at least
SLOWEST_DISK = 50e6
NO_LINKS = (errno.EPERM, errno.EXDEV, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja",
    "vocab.json", "merges.txt", "tokenizer.model", "generation_config.json",
)  # fmt: skip


@dataclass(slots=True, frozen=True)
class SavedReference:
    """A file that is known to hold this rank's part of the reference of `epoch`: it wrote it, or loaded it from there.

    averages: those that this process had made then.

    The inode tells it from a file of the same name that another generation of the run left.
    """

    epoch: int
    averages: int
    path: Path
    inode: tuple[int, int]

    @staticmethod
    def at(path: Path, epoch: int, averages: int) -> SavedReference | None:
        """The file in a checkpoint; None if the checkpoint has none."""
        return SavedReference(epoch, averages, path, _inode(path)) if path.is_file() else None

    def holds(self, reference: Reference) -> bool:
        """Whether the file still exists and holds the reference as it is."""
        same = (self.epoch, self.averages) == (reference.epoch, reference.averages)
        return same and self.path.is_file() and _inode(self.path) == self.inode


class Checkpointer:
    """Saves into `folder`, and removes the half-written folders of dead processes there. Every rank writes what it holds.

    One checkpoint is written at a time, each by its own thread. The next `save`, `wait` or `close` raises its failure.
    """

    def __init__(
        self, folder: Path, ranks: Ranks, *, dtype: str, source: Path | None, keep: int, resumed: Path | None = None
    ) -> None:
        """`source`: folder whose tokenizer files every checkpoint gets. `resumed`: checkpoint that the trainer was loaded from.

        Collective. Raises: CheckpointError when `folder` cannot be used, ModelError when `resumed` cannot be read.
        """
        self._folder, self._ranks, self._dtype, self._keep = folder, ranks, DTYPES[dtype], keep
        self._memory = HostMemory()
        self._thread: threading.Thread | None = None
        self._limit_s = WRITE_S
        self._failure: ProlongError | None = None
        self._durable: deque[int] = deque()
        self._numbers = {"checkpoint/waited_s": 0.0, "checkpoint/snapshot_s": 0.0, "checkpoint/write_s": 0.0}
        self._reference: SavedReference | None = None
        self._tokenizer: dict[str, bytes] = {}
        try:
            self._writers = Writers(folder, ranks)
            if self._writers.owner:
                _sync(folder.parent)
                for path in folder.glob(".step-*"):
                    shutil.rmtree(path)
        except OSError as error:
            raise CheckpointError(f"cannot keep checkpoints in {folder}: {error}; may this user write there?") from error
        # nobody writes before what is left of others is gone
        ranks.barrier()
        if source is not None and self._writers.owner:
            files = (source / name for name in TOKENIZER_FILES)
            self._tokenizer = {path.name: path.read_bytes() for path in files if path.is_file()}
        if resumed is not None:
            state = read_state(resumed)
            # a file of another number of ranks holds another part
            if state.ranks == ranks.size:
                self._reference = SavedReference.at(self._reference_file(resumed), state.reference_epoch, averages=0)

    def save(self, state: LearnerState, trainer: Trainer, *, protect: frozenset[int] = frozenset()) -> None:
        """Copy everything and return; a thread then writes the checkpoint of `state.version`. Collective.

        Once it is durable, all complete checkpoints are removed except the newest `keep` and those of the versions in
        `protect`. Checkpoints of later versions are removed too: another generation made them. Blocks while the checkpoint
        before is still being written, as long as a slow disk needs at most; `checkpoint/waited_s` counts the seconds.
        Raises: CheckpointError of the checkpoint before.
        """
        self.wait()
        started = perf_counter()
        with_reference = not self._reference_is_saved(trainer)
        copies = not self._writers.together
        snapshot = take_snapshot(state, trainer, self._ranks, self._memory, with_reference=with_reference, copies=copies)
        self._numbers["checkpoint/snapshot_s"] = perf_counter() - started
        self._limit_s = WRITE_S + snapshot.num_bytes / SLOWEST_DISK
        linked = None if with_reference else self._reference
        self._thread = threading.Thread(
            target=self._write, args=(snapshot, linked, protect), name=f"checkpoint-{state.version}", daemon=True
        )
        self._thread.start()

    def export(self, policy: Policy, version: int) -> None:
        """Add the policy, whole, to the checkpoint of `version` where several ranks wrote that, once it is durable. Collective.

        Adapters are there already, in a form that others load.
        What goes wrong is logged: the checkpoint is complete, and `prolong export` may be tried again.
        """
        if self._ranks.size == 1 or next(adapted_layers(policy.causal), None) is not None:
            return
        self.wait()
        folder = checkpoint_path(self._folder, version)
        writer = ModelWriter(folder) if self._ranks.first else None
        try:
            write_model(writer, policy.causal, policy.full_parameters(self._dtype))
        except (OSError, SafetensorError) as error:
            log.warning("%s was not exported as a model: %r", folder, error)
            if writer is not None:
                writer.abandon()

    def durable(self) -> list[int]:
        """Return the versions that became durable since the last call. On rank 0 only."""
        return [self._durable.popleft() for _ in range(len(self._durable))]

    @property
    def save_s(self) -> float:
        """Seconds that the last durable checkpoint took, its copy included."""
        return self._numbers["checkpoint/snapshot_s"] + self._numbers["checkpoint/write_s"]

    @property
    def busy(self) -> bool:
        """Whether a checkpoint is being written."""
        return self._thread is not None and self._thread.is_alive()

    def wait(self) -> None:
        """Wait until nothing is being written. Raises: CheckpointError for a failed write, or when the disk does not answer."""
        if self._thread is not None:
            started = perf_counter()
            self._thread.join(self._limit_s)
            self._numbers["checkpoint/waited_s"] += perf_counter() - started
            if self._thread.is_alive():
                raise CheckpointError(
                    f"{self._thread.name} is not on disk in {self._folder} after {self._limit_s:.0f} s; does that disk still "
                    "answer?"
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

    def _reference_file(self, checkpoint: Path) -> Path:
        return stored_file(checkpoint, REFERENCE, self._ranks.rank, self._ranks.size)

    def _reference_is_saved(self, trainer: Trainer) -> bool:
        """Whether every rank can link its file of the reference. Collective."""
        saved, frozen = self._reference, trainer.reference
        missing = not (frozen and saved and saved.holds(frozen))
        return not self._ranks.sum_(torch.tensor(float(missing)))

    def _write(self, snapshot: Snapshot | ShardSnapshot, linked: SavedReference | None, protect: frozenset[int]) -> None:
        """Write, publish and prune. Runs on the thread; keeps a failure for the learner's next call."""
        started = perf_counter()
        target = checkpoint_path(self._folder, snapshot.version)
        scratch = self._folder / f".{target.name}.{self._writers.name}"
        first, owner = self._ranks.first, self._writers.owner
        try:
            self._together(lambda: self._fill(scratch, snapshot, linked))
            self._together(lambda: None if first or not owner else _publish(scratch, target))
            self._together(lambda: _publish(scratch, target) if first else None)
            self._reference = SavedReference.at(self._reference_file(target), snapshot.epoch, snapshot.averages)
            self._numbers["checkpoint/write_s"] = perf_counter() - started
            self._durable.append(snapshot.version)
            if owner:
                self._prune(snapshot.version, protect)
        except Exception as error:
            self._failure = _explain(error, target)
            if owner:
                shutil.rmtree(scratch, ignore_errors=True)

    def _together(self, work: Callable[[], None]) -> None:
        self._writers.do(work, self._limit_s)

    def _fill(self, scratch: Path, snapshot: Snapshot | ShardSnapshot, linked: SavedReference | None) -> None:
        """Write and sync the files of this rank."""
        scratch.mkdir(exist_ok=self._ranks.size > 1)
        for name, content in self._tokenizer.items():
            (scratch / name).write_bytes(content)
        if linked is not None:
            _link(linked.path, self._reference_file(scratch))
        write_snapshot(snapshot, scratch, dtype=self._dtype, owner=self._writers.owner)
        if self._ranks.size > 1:
            # the owner's later sync does not reach what is in the memory of another machine
            for path in scratch.glob(f"*-{self._ranks.rank:05d}-of-*"):
                _sync(path)

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

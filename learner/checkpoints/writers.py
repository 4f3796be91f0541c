"""The threads that write one checkpoint, one on each rank: they fail together, and share a folder or not.

The run folder may be on a disk of all nodes, or every node has one of its own under the same path. Each folder has an owner,
which renames and removes checkpoints in it: rank 0, and on a disk that is not rank 0's the node's first rank.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import torch
from torch import distributed as dist
from torch.distributed.distributed_c10d import _set_pg_timeout

from ...common.errors import CheckpointError
from ..ranks import START_TIMEOUT_S, Ranks


class Writers:
    """The rank's place among those that write into `folder`, and how they wait for each other."""

    def __init__(self, folder: Path, ranks: Ranks) -> None:
        """Collective. Raises: OSError when `folder` cannot be used."""
        self._ranks = ranks
        # of the folders that are being written; the same on all ranks
        self.name = f"{os.getpid()}.{secrets.token_hex(4)}"
        # whether this rank renames and removes folders, and whether all ranks see the same ones
        self.owner, self.together = True, True
        self._group: dist.ProcessGroup | None = None
        if ranks.size > 1:
            # apart from the groups of the learner's thread, which goes on meanwhile
            group = dist.new_group(backend="gloo", timeout=timedelta(seconds=START_TIMEOUT_S))
            assert isinstance(group, dist.ProcessGroup), "every rank is a member"
            # from here on every wait has a deadline of its own, which fits the bytes that are written
            _set_pg_timeout(timedelta(days=1), group)
            self._group = group
        self._find_owner(folder)

    def _find_owner(self, folder: Path) -> None:
        """Learn whether this rank sees what rank 0 writes."""
        if self._ranks.size == 1:
            folder.mkdir(parents=True, exist_ok=True)
            return
        error: OSError | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as raised:
            error = raised
        self.name = self._ranks.broadcast_bytes(self.name.encode() if self._ranks.first else None).decode()
        probe = folder / f".probe-{self.name}"
        if self._ranks.first and error is None:
            with suppress(OSError):
                probe.touch()
        self._ranks.barrier()
        sees = probe.exists()
        seeing = int(self._ranks.sum_(torch.tensor(float(sees))))
        if self._ranks.first:
            probe.unlink(missing_ok=True)
        self.together = seeing == self._ranks.size
        self.owner = self._ranks.first or (not sees and self._ranks.local_rank == 0)
        if error is not None:
            raise error

    def do(self, work: Callable[[], None], timeout_s: float) -> None:
        """Do `work` on this rank, and return when it is done on all; on the writing threads only. Collective.

        Raises: what `work` raised here; CheckpointError when it failed on another rank, or took longer than `timeout_s`.
        """
        failure: Exception | None = None
        try:
            work()
        except Exception as error:
            failure = error
        failed = self._gather_failures(failure is not None, timeout_s)
        if failure is not None:
            raise failure
        if failed:
            raise CheckpointError(f"rank {failed[0]} could not do its part; its log says why")

    def _gather_failures(self, failed: bool, timeout_s: float) -> list[int]:
        """The ranks that have failed. Raises: CheckpointError."""
        if self._group is None:
            return []
        answers = [torch.zeros(1, dtype=torch.uint8) for _ in range(self._ranks.size)]
        try:
            work = dist.all_gather(answers, torch.tensor([failed], dtype=torch.uint8), group=self._group, async_op=True)
            assert work is not None
            work.wait(timedelta(seconds=timeout_s))
        except RuntimeError as error:
            raise CheckpointError(f"another rank is gone, or was not done within {timeout_s:.0f} s ({error})") from error
        return [rank for rank, answer in enumerate(answers) if answer]

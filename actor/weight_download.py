"""The actor's end of the weights plane up to the staging memory: join, receive, checksum. Knows no vLLM.

    begin(update) -> a thread: join the epoch's group, receive every bucket, checksum it --> ended

An error or a deadline here leaves the weights that are in use untouched. Each phase (the join, each bucket) has the deadline
that the learner named in its Publish, so that both ends give up on a silent peer at the same time.
"""

from __future__ import annotations

import threading

import torch

from ..common.errors import ProlongError, WeightsError
from ..common.messages import UpdateWeights
from ..common.types import BucketSpec
from ..common.weights.buckets import check_manifest, checksum, manifest_digest
from ..common.weights.collective import WeightsGroup

JOIN_FACTOR = 1.5  # rank 0 gives up first, and tells the others


class WeightDownload:
    """One attempt to receive an update, in a thread of its own. Whoever loses interest drops it: it ends at its deadline."""

    def __init__(self, update: UpdateWeights, group: WeightsGroup | None, device: torch.device, timeout_s: float) -> None:
        """`group`: of the same epoch, if it was joined before. `timeout_s`: of a phase, when the update names none."""
        self.update, self.group = update, group
        self.staged: list[torch.Tensor] = []  # one flat uint8 buffer a bucket; never reused: the loader keeps views
        self.checksums: list[int] = []
        self.error = ""
        self.device = device
        self._phase_timeout_s = min(update.phase_timeout_s or timeout_s, timeout_s)
        self._thread = threading.Thread(target=self._run, name="weights", daemon=True)
        self._thread.start()

    def ended(self, wait_s: float) -> bool:
        """Whether it is over, after waiting for at most `wait_s`."""
        self._thread.join(wait_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            check_manifest(self.update.manifest)
            if self.device.type == "cuda":
                torch.cuda.set_device(self.device)
            group = self.group = self.group or self.join(JOIN_FACTOR * self._phase_timeout_s)
            for bucket in self.update.manifest.buckets:
                flat = self.receive(group, bucket, self._phase_timeout_s)
                self.checksums.append(checksum(flat))
                self.staged.append(flat)
        except (ProlongError, RuntimeError) as error:  # RuntimeError: torch, out of memory included
            self.error = str(error) or type(error).__name__
            self.staged = []
            if self.group is not None:
                self.group.fail()
                self.group = None

    def join(self, timeout_s: float) -> WeightsGroup:
        """Meet the learner and the other members. Raises WeightsError."""
        update = self.update
        return WeightsGroup.join(
            update.store_host,
            update.store_port,
            generation=update.generation,
            epoch=update.epoch,
            rank=update.rank,
            world_size=update.world_size,
            device=self.device,
            timeout_s=timeout_s,
            digest=manifest_digest(update.manifest),
        )

    def receive(self, group: WeightsGroup, bucket: BucketSpec, timeout_s: float) -> torch.Tensor:
        """The next bucket, [num_bytes] uint8. Raises WeightsError."""
        flat = torch.empty(bucket.num_bytes, dtype=torch.uint8, device=self.device)
        group.broadcast(flat, timeout_s)
        return flat


class WeightDownloader:
    """The last download begun; it holds the group of its epoch, which the next of the same epoch uses again."""

    def __init__(self, kind: type[WeightDownload] = WeightDownload) -> None:
        self._kind = kind
        self.last: WeightDownload | None = None

    def begin(self, update: UpdateWeights, device: torch.device, timeout_s: float) -> None:
        """Start to receive `update`; an older download that goes on is dropped. Raises WeightsError if both share an epoch."""
        group, last = None, self.last
        if last is not None:
            same = (last.update.generation, last.update.epoch) == (update.generation, update.epoch)
            over = last.ended(0.0)
            if same and not over:
                raise WeightsError(f"version {update.version} offered in epoch {update.epoch}, whose broadcast goes on")
            if same:
                group = last.group
            elif over and last.group is not None:
                last.group.close()
        self.last = self._kind(update, group, device, timeout_s)

    def ended(self, wait_s: float) -> tuple[bool, list[int], str]:
        """(over, checksums of what was received, error), after waiting for at most `wait_s`."""
        if self.last is None:
            return True, [], ""
        if not self.last.ended(wait_s):
            return False, [], ""
        return True, self.last.checksums, self.last.error

    def close(self) -> None:
        """Leave the group, unless a thread is still in it: that one ends at its deadline."""
        if self.last is not None and self.last.ended(0.0) and self.last.group is not None:
            self.last.group.close()
        self.last = None

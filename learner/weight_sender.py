"""The backward edge learner -> actors: weights.

    publish(): snapshot into flat buckets --Publish--> buffer --PublishPlan--> join the epoch's group, broadcast
               <--PublishResult-- (acknowledgements with checksums); another checksum --Cordon--> buffer; one retry

Only the snapshot is on the learner's critical path; a thread does the rest. A newer snapshot replaces one that waits. No
actor can stop the learner: one that fails is cordoned by the buffer and asked in again (SyncRequested). Only when publish
after publish reaches nobody at all does the next `publish` or `close` raise.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from time import monotonic, perf_counter

import torch
from torch import Tensor

from ..buffer.client import BufferClient, Inbox
from ..common.config import WeightsConfig
from ..common.errors import BufferUnreachable, DeadlineExceeded, ProlongError, WeightsError
from ..common.messages import Cordon, Publish, PublishPlan, PublishResult, SyncRequested
from ..common.types import Manifest
from ..common.weights import TensorShape, WeightsGroup, WeightsStore, checksum, pack, plan_buckets

log = logging.getLogger(__name__)

POLL_S = 0.2  # how soon the thread notices `close` and a new generation
FRUITLESS = 10  # publishes in a row that reached none of their members, until the learner gives up
TRIES = 2  # of one publish
CLOSE_S = 2.0


@dataclass(slots=True)
class Snapshot:
    """The weights of one version, packed."""

    version: int
    buckets: list[Tensor]


@dataclass(slots=True)
class _Request:
    """A Publish that was sent."""

    snapshot: Snapshot
    generation: int
    tries: int
    sent: float = field(default_factory=monotonic)


class WeightSender:
    """Owned by rank 0. `publish` and `close` belong to the main thread, everything else to the sender's own."""

    def __init__(
        self, client: BufferClient, inbox: Inbox, cfg: WeightsConfig, specs: Iterable[TensorShape], device: torch.device
    ) -> None:
        """`inbox` holds PublishPlan, PublishResult and SyncRequested; `specs` name all tensors, in the order of `publish`."""
        self.manifest: Manifest = plan_buckets(specs, cfg.bucket_mb << 20)
        self._client, self._inbox, self._cfg, self._device = client, inbox, cfg, device
        self._store = WeightsStore(cfg.host, timeout_s=cfg.timeout_s)
        self._lock = threading.Lock()
        self._latest: Snapshot | None = None
        self._request: _Request | None = None  # at most one Publish is under way
        self._spare: list[list[Tensor]] = []
        self._group: WeightsGroup | None = None
        self._group_key: tuple[int, int] | None = None  # (generation, epoch)
        self._fruitless = 0
        self._error: ProlongError | None = None
        self._closing = threading.Event()
        self._idle = threading.Event()
        self._idle.set()
        self._numbers = {"weights/publish_s": 0.0, "weights/critical_s": 0.0, "weights/failed": 0.0, "weights/replaced": 0.0}
        self._thread = threading.Thread(target=self._run, name="weight-sender", daemon=True)
        self._thread.start()

    def publish(self, version: int, tensors: Iterable[tuple[str, Tensor]]) -> None:
        """Snapshot the tensors as `version` and return; they may change afterwards. Raises what stopped the thread."""
        started = perf_counter()
        if self._error is not None:
            raise self._error
        snapshot = Snapshot(version, self._pack(iter(tensors)))
        with self._lock:
            replaced = self._latest
            self._latest = snapshot
            self._idle.clear()
            if replaced is not None and (self._request is None or self._request.snapshot is not replaced):
                self._spare.append(replaced.buckets)
            if self._request is None:
                self._ask(snapshot, tries=1)
            elif replaced is not None and self._request.snapshot is not replaced:
                self._numbers["weights/replaced"] += 1
        self._numbers["weights/critical_s"] = perf_counter() - started

    def metrics(self) -> dict[str, float]:
        """Seconds of the last publish and of its critical part; counts of members that failed, of snapshots never sent."""
        return dict(self._numbers)

    def wait_idle(self, timeout_s: float) -> bool:
        """Wait until the latest snapshot was sent to whoever there is. For tests and benches."""
        return self._idle.wait(timeout_s)

    def close(self) -> None:
        """Stop the thread and give the store back. A thread inside a broadcast is left to its deadline."""
        self._closing.set()
        self._thread.join(timeout=CLOSE_S)
        if not self._thread.is_alive():
            self._drop_group()
            self._store.close()

    def _pack(self, tensors: Iterable[tuple[str, Tensor]]) -> list[Tensor]:
        with self._lock:
            buffers = self._spare.pop() if self._spare else [None] * len(self.manifest.buckets)
        flats = []
        for bucket, out in zip(self.manifest.buckets, buffers, strict=True):
            flats.append(pack(bucket, dict(next(tensors) for _ in bucket.tensors), out))  # pyright: ignore[reportArgumentType]
        return flats

    def _ask(self, snapshot: Snapshot, tries: int) -> None:
        """Send Publish; the lock is held."""
        assert self._client.welcome is not None
        self._request = _Request(snapshot, self._client.welcome.generation, tries)
        self._client.send(
            Publish(
                generation=self._request.generation,
                version=snapshot.version,
                store_host=self._store.host,
                store_port=self._store.port,
                manifest=self.manifest,
            )
        )

    def _run(self) -> None:
        """The loop of the thread.

        Consumes: plans and requests for weights. Blocks on: the inbox and, inside a plan, the broadcast and its result.
        Unblocked by: the buffer's messages, deadlines. Stops on: `close`, the end of the run, or an error kept for `publish`.
        """
        try:
            while not self._closing.is_set():
                try:
                    message = self._inbox.take(POLL_S)
                except BufferUnreachable:
                    raise
                except DeadlineExceeded:
                    self._maybe_ask_again()
                    continue
                if isinstance(message, PublishPlan):
                    self._serve(message)
                elif isinstance(message, SyncRequested):
                    log.info("weights asked for: %s", message.reason)
                    with self._lock:
                        if self._request is None and self._latest is not None:
                            self._ask(self._latest, tries=1)
        except ProlongError as error:
            self._error = error
        finally:
            self._idle.set()

    def _maybe_ask_again(self) -> None:
        """A Publish without a plan: the buffer restarted, or began another generation."""
        with self._lock:
            request, welcome = self._request, self._client.welcome
            if request is None or welcome is None:
                return
            if welcome.generation != request.generation or monotonic() - request.sent > self._cfg.timeout_s:
                self._ask(request.snapshot, request.tries)

    def _serve(self, plan: PublishPlan) -> None:
        request = self._request
        if request is None or plan.version != request.snapshot.version:
            return
        failed: dict[str, str] = {}
        if plan.members:
            self._broadcast(plan, request)
            result = self._await_result(plan)
            if self._closing.is_set():
                return
            failed = self._failures(plan, request, result)
            self._numbers["weights/publish_s"] = monotonic() - request.sent
        self._settle(request, plan, failed)

    def _broadcast(self, plan: PublishPlan, request: _Request) -> None:
        """Join the epoch's group if it is another one, and send every bucket. What goes wrong shows in the acknowledgements."""
        try:
            key = request.generation, plan.epoch
            if self._group is None or self._group_key != key:
                self._drop_group()
                self._group = WeightsGroup.join(
                    self._store.host,
                    self._store.port,
                    generation=request.generation,
                    epoch=plan.epoch,
                    rank=0,
                    world_size=len(plan.members) + 1,
                    device=self._device,
                    timeout_s=self._cfg.timeout_s / 2,  # before the buffer's own deadline for all of it
                )
                self._group_key = key
            for flat in request.snapshot.buckets:
                self._group.broadcast(flat)
        except WeightsError as error:
            log.warning("weights of version %d, epoch %d: %s", plan.version, plan.epoch, error)
            self._drop_group()

    def _await_result(self, plan: PublishPlan) -> PublishResult | None:
        deadline = monotonic() + 2 * self._cfg.timeout_s
        while not self._closing.is_set() and monotonic() < deadline:
            try:
                message = self._inbox.take(POLL_S)
            except BufferUnreachable:
                raise
            except DeadlineExceeded:
                continue
            if isinstance(message, PublishResult) and (message.epoch, message.version) == (plan.epoch, plan.version):
                return message
        return None

    def _failures(self, plan: PublishPlan, request: _Request, result: PublishResult | None) -> dict[str, str]:
        """Who does not hold these weights now, and why; those with another checksum are cordoned."""
        if result is None:
            return dict.fromkeys(plan.members, "the buffer said nothing about this broadcast")
        sent = [checksum(flat) for flat in request.snapshot.buckets]
        wrong = [name for name, received in result.checksums.items() if received != sent]
        if wrong:
            self._client.send(Cordon(epoch=plan.epoch, names=wrong))
        return result.failed | dict.fromkeys(wrong, "received other bytes than were sent")

    def _settle(self, request: _Request, plan: PublishPlan, failed: dict[str, str]) -> None:
        """Retry, go on with a newer snapshot, or rest."""
        self._numbers["weights/failed"] += len(failed)
        for name, reason in failed.items():
            log.warning("weights of version %d did not reach %s: %s", plan.version, name, reason)
        if failed:
            self._drop_group()
        reached_none = bool(failed) and len(failed) == len(plan.members)
        self._fruitless = self._fruitless + 1 if reached_none else 0 if plan.members else self._fruitless
        if self._fruitless >= FRUITLESS:
            raise WeightsError(
                f"{self._fruitless} publishes in a row reached no actor (last: {failed}); is weights.host = "
                f"{self._cfg.host} an address that the actors can reach?"
            )
        with self._lock:
            latest = self._latest
            assert latest is not None
            if latest is not request.snapshot:
                self._spare.append(request.snapshot.buckets)
                self._ask(latest, tries=1)
            elif failed and request.tries < TRIES:
                self._ask(latest, request.tries + 1)
            else:
                self._request = None
                self._idle.set()

    def _drop_group(self) -> None:
        group, self._group, self._group_key = self._group, None, None
        if group is not None:
            group.close()

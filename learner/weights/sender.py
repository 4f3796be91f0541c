"""The backward edge learner -> actors: weights.

    publish(): snapshot into flat buckets --Publish--> buffer --PublishPlan--> join the epoch's group, broadcast
               <--PublishResult-- (acknowledgements with checksums); another checksum --Cordon--> buffer; one retry

Only the snapshot is on the learner's critical path; a thread does the rest. A newer snapshot replaces one that waits. No
actor can stop the learner: one that fails is cordoned by the buffer and asked in again (SyncRequested). Only when publish
after publish reaches nobody at all does the next `publish` or `close` raise.

Deadlines: the join and every bucket may take as long as `adaptive_deadline.py` says. Publish carries that number to the buffer
and the actors. Who is silent for longer costs the others that, half of it again, and the retry in a fresh group.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from time import monotonic, perf_counter

import torch
from torch import Tensor

from ...buffer.client.client import BufferClient, Inbox
from ...common.config.sections import WeightsConfig
from ...common.errors import ProlongError, WeightsError
from ...common.messages import Cordon, Publish, PublishPlan, PublishResult, SyncRequested, Welcome
from ...common.types import Manifest
from ...common.weights.buckets import TensorShape, checksum, fill_bucket, manifest_digest, plan_buckets
from ...common.weights.collective import WeightsGroup, WeightsStore
from .adaptive_deadline import AdaptiveDeadline

log = logging.getLogger(__name__)

POLL_S = 0.2  # how soon the thread notices `close` and a new generation
FRUITLESS = 10  # publishes in a row that reached none of their members, until the learner gives up
TRIES = 2  # of one publish
CLOSE_S = 2.0
RESULT_S = 2.0  # for the buffer's own delays


@dataclass(slots=True)
class PackedWeights:
    """The weights of one version, packed."""

    version: int
    buckets: list[Tensor]


@dataclass(slots=True)
class _Request:
    """A Publish that was sent."""

    weights: PackedWeights
    generation: int
    tries: int
    phase_timeout_s: float
    sent: float = field(default_factory=monotonic)


class WeightSender:
    """Owned by rank 0. `publish` and `close` belong to the main thread, everything else to the sender's own."""

    def __init__(
        self,
        client: BufferClient,
        inbox: Inbox[PublishPlan | PublishResult | SyncRequested],
        cfg: WeightsConfig,
        specs: Iterable[TensorShape],
        device: torch.device,
        deadline: AdaptiveDeadline | None = None,
    ) -> None:
        """`inbox` holds PublishPlan, PublishResult and SyncRequested; `specs` name all tensors, in the order of `publish`."""
        self.manifest: Manifest = plan_buckets(specs, cfg.bucket_mb << 20)
        self._client, self._inbox, self._cfg, self._device = client, inbox, cfg, device
        self._deadline = deadline or AdaptiveDeadline(cfg.timeout_s)
        self._digest = manifest_digest(self.manifest)
        self._store = WeightsStore(cfg.host, timeout_s=cfg.timeout_s)
        self._lock = threading.Lock()
        self._latest: PackedWeights | None = None
        self._request: _Request | None = None  # at most one Publish is under way
        self._spare: list[list[Tensor]] = []
        self._group: WeightsGroup | None = None
        self._group_key: tuple[int, int] | None = None  # (generation, epoch)
        self._fruitless = 0
        self._reached = -1  # the last version that anybody has
        self._error: ProlongError | None = None
        self._closing = threading.Event()
        self._idle = threading.Event()
        self._idle.set()
        self._numbers = {f"weights/{x}": 0.0 for x in ("publish_s", "critical_s", "phase_timeout_s", "failed", "replaced")}
        self._thread = threading.Thread(target=self._run, name="weight-sender", daemon=True)
        self._thread.start()

    def publish(self, version: int, tensors: Iterable[tuple[str, Tensor]]) -> None:
        """Pack the tensors as `version` and return; they may change afterwards. Raises what stopped the thread."""
        started = perf_counter()
        if self._error is not None:
            raise self._error
        weights = PackedWeights(version, self._pack(iter(tensors)))
        with self._lock:
            replaced = self._latest
            self._latest = weights
            self._idle.clear()
            if replaced is not None and (self._request is None or self._request.weights is not replaced):
                self._spare.append(replaced.buckets)
            if self._request is None:
                self._ask(weights, tries=1)
            elif replaced is not None and self._request.weights is not replaced:
                self._numbers["weights/replaced"] += 1
        self._numbers["weights/critical_s"] = perf_counter() - started

    def metrics(self) -> dict[str, float]:
        """Seconds of the last publish, its critical part, deadline of a phase; counts: failed members, snapshots never sent."""
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
            flats.append(fill_bucket(bucket, dict(next(tensors) for _ in bucket.tensors), out))  # pyright: ignore[reportArgumentType]
        return flats

    def _ask(self, weights: PackedWeights, tries: int, given_up: int = -1) -> None:
        """Send Publish; the lock is held. `given_up`: epoch of a broadcast whose result did not come."""
        assert self._client.welcome is not None
        request = self._request = _Request(weights, self._client.welcome.generation, tries, self._deadline.phase_timeout_s)
        self._numbers["weights/phase_timeout_s"] = request.phase_timeout_s
        self._client.send(
            Publish(
                generation=request.generation,
                version=weights.version,
                store_host=self._store.host,
                store_port=self._store.port,
                manifest=self.manifest,
                phase_timeout_s=request.phase_timeout_s,
                given_up=given_up,
            )
        )

    def _run(self) -> None:
        """The loop of the thread.

        Consumes: plans and requests for weights. Blocks on: the inbox and, inside a plan, the broadcast and its result.
        Unblocked by: the buffer's messages, deadlines. Stops on: `close`, the end of the run, or an error kept for `publish`.
        """
        try:
            while not self._closing.is_set():
                message = self._maybe_take()
                if message is None:
                    self._maybe_ask_again()
                elif isinstance(message, PublishPlan):
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

    def _maybe_take(self) -> PublishPlan | PublishResult | SyncRequested | None:
        """What comes within POLL_S. Raises BufferUnreachable, RunStopped."""
        return self._inbox.take_within(POLL_S)

    def _maybe_ask_again(self) -> None:
        """A Publish without a plan: the buffer restarted, or began another generation."""
        with self._lock:
            request, welcome = self._request, self._client.welcome
            if request is None or welcome is None:
                return
            if welcome.generation != request.generation or monotonic() - request.sent > self._cfg.timeout_s:
                self._ask(request.weights, request.tries)

    def _serve(self, plan: PublishPlan) -> None:
        request = self._request
        if request is None or plan.version != request.weights.version:
            return
        failed, given_up = {}, -1
        if plan.members:
            planned_by = self._client.welcome
            phases_s = self._broadcast(plan, request)
            result = self._await_result(plan, request, planned_by)
            if self._closing.is_set():
                return
            given_up = plan.epoch if result is None else -1
            failed = self._failures(plan, request, result)
            self._numbers["weights/publish_s"] = monotonic() - request.sent
            if failed or not phases_s:
                self._deadline.failed()
            else:
                self._deadline.succeeded([*phases_s, monotonic() - request.sent - sum(phases_s)])
        self._settle(request, plan, failed, given_up)

    def _broadcast(self, plan: PublishPlan, request: _Request) -> list[float]:
        """Join the epoch's group if it is another one, send every bucket; the seconds of each phase, none after a failure."""
        times = [perf_counter()]
        try:
            group = self._join(plan, request)
            times.append(perf_counter())
            for flat in request.weights.buckets:
                group.broadcast(flat, request.phase_timeout_s)
                times.append(perf_counter())
        except WeightsError as error:
            log.warning("weights of version %d, epoch %d: %s", plan.version, plan.epoch, error)
            self._drop_group()
            return []
        return [end - start for start, end in pairwise(times)]

    def _join(self, plan: PublishPlan, request: _Request) -> WeightsGroup:
        key = request.generation, plan.epoch
        if self._group is not None and self._group_key == key:
            return self._group
        self._drop_group()
        self._group = WeightsGroup.join(
            self._store.host,
            self._store.port,
            generation=request.generation,
            epoch=plan.epoch,
            rank=0,
            world_size=len(plan.members) + 1,
            device=self._device,
            timeout_s=request.phase_timeout_s,
            digest=self._digest,
        )
        self._group_key = key
        return self._group

    def _await_result(self, plan: PublishPlan, request: _Request, planned_by: Welcome | None) -> PublishResult | None:
        """None when nobody answered within twice the deadline of a phase, or the buffer that planned it is gone."""
        deadline = monotonic() + 2 * request.phase_timeout_s + RESULT_S
        while not self._closing.is_set() and monotonic() < deadline and self._client.welcome is planned_by:
            message = self._maybe_take()
            if isinstance(message, PublishResult) and (message.epoch, message.version) == (plan.epoch, plan.version):
                return message
        return None

    def _failures(self, plan: PublishPlan, request: _Request, result: PublishResult | None) -> dict[str, str]:
        """Who does not hold these weights now, and why; those with another checksum are cordoned."""
        if result is None:
            return dict.fromkeys(plan.members, "no answer, and none from the buffer about it")
        sent = [checksum(flat) for flat in request.weights.buckets]
        wrong = [name for name, received in result.checksums.items() if received != sent]
        if wrong:
            self._client.send(Cordon(epoch=plan.epoch, names=wrong))
        return result.failed | dict.fromkeys(wrong, "received other bytes than were sent")

    def _settle(self, request: _Request, plan: PublishPlan, failed: dict[str, str], given_up: int) -> None:
        """Retry, go on with a newer snapshot, or rest."""
        self._numbers["weights/failed"] += len(failed)
        for name, reason in failed.items():
            log.warning("weights of version %d did not reach %s: %s", plan.version, name, reason)
        if failed:
            self._drop_group()
        if len(failed) < len(plan.members):
            self._reached, self._fruitless = plan.version, 0
        elif failed and self._reached != plan.version:
            self._fruitless += 1
        if self._fruitless >= FRUITLESS:
            raise WeightsError(
                f"{self._fruitless} publishes in a row reached no actor (last: {failed}); is weights.host = "
                f"{self._cfg.host} an address that the actors can reach?"
            )
        with self._lock:
            latest = self._latest
            assert latest is not None
            if latest is not request.weights:
                self._spare.append(request.weights.buckets)
                self._ask(latest, 1, given_up)
            elif failed and (request.tries < TRIES or given_up >= 0):
                self._ask(latest, request.tries + 1, given_up)
            else:
                self._request = None
                self._idle.set()

    def _drop_group(self) -> None:
        group, self._group, self._group_key = self._group, None, None
        if group is not None:
            group.close()

"""One `prolong verifier` process on another host, as a client sees it: attached or not, with the jobs in its hands."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

import zmq
import zmq.asyncio
from zmq.utils.monitor import parse_monitor_message

from ...common.errors import WireError
from ...common.transport.keys import ClientKeys
from ...common.transport.sockets import REFUSED, WATCHED, close_watched, connect_dealer
from ...common.transport.wire import Decoder, encode
from ...common.types import Verdict
from .host_messages import MAX_MESSAGE_BYTES, VERIFIER_PROTOCOL, Attach, Attached, FromHost, Judge, Judged

MAX_JOBS_PER_WORKER = 256  # of each client, in a host's hands

log = logging.getLogger(__name__)


class HostLost(Exception):
    """No verdict will come from that host any more."""


class RemoteHost:
    """One `prolong verifier`; made by `connect`. It has 0 workers while it is not attached.

    attached: set while it is. counters: those of the pool, under "hosts/...".
    """

    def __init__(self, socket: zmq.asyncio.Socket, address: str, counters: Counter[str]) -> None:
        self.address = address
        self.attached = asyncio.Event()
        self.num_workers = 0
        self._verifiers = frozenset[str]()
        self._waiting: dict[int, asyncio.Future[Verdict]] = {}
        self._socket, self._counters = socket, counters
        self._decoder = Decoder[FromHost](FromHost, MAX_MESSAGE_BYTES)
        self._tasks: list[asyncio.Task[None]] = []

    @classmethod
    def connect(cls, context: zmq.asyncio.Context, address: str, keys: ClientKeys | None, counters: Counter[str]) -> RemoteHost:
        """Connect and go on connecting until `close`; waits for nothing. Runs in the present event loop."""
        socket = connect_dealer(context, address, MAX_MESSAGE_BYTES, keys=keys, watch=WATCHED)
        assert isinstance(socket, zmq.asyncio.Socket)
        host = cls(socket, address, counters)
        host._tasks = [asyncio.create_task(host._guarded(work)) for work in (host._listen, host._watch)]
        return host

    @property
    def num_waiting(self) -> int:
        """Jobs in its hands."""
        return len(self._waiting)

    @property
    def load(self) -> float:
        """Jobs in its hands per worker."""
        return self.num_waiting / self.num_workers

    def may_take(self, verifier: str) -> bool:
        """Whether it is attached, offers this verifier and has room for another job."""
        return verifier in self._verifiers and self.num_waiting < MAX_JOBS_PER_WORKER * self.num_workers

    async def judge(self, job: Judge, timeout_s: float) -> Verdict:
        """Its verdict. Raises HostLost, and TimeoutError after `timeout_s`."""
        frame = encode(job)
        if len(frame) > MAX_MESSAGE_BYTES:
            raise HostLost(f"a job of {len(frame)} bytes is too large to send")
        future = self._waiting[job.number] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(timeout_s):
                await self._socket.send(frame)
                return await future
        finally:
            del self._waiting[job.number]

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        close_watched(self._socket, 0.0)

    async def _guarded(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run `work`. If a fault of ours ends it, stop using this host, log it, and fail the jobs in its hands."""
        try:
            await work()
        except Exception:
            self._counters["hosts/broken"] += 1
            log.exception("%s is not used any more", self.address)
            for task in self._tasks:
                if task is not asyncio.current_task():
                    task.cancel()
            self._detach("fails here")

    def _detach(self, why: str) -> None:
        """Expect no verdict from it until it attaches again."""
        self.num_workers, self._verifiers = 0, frozenset()
        self.attached.clear()
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(HostLost(f"{self.address} {why}"))

    async def _listen(self) -> None:
        """Consumes frames of the host; blocks on the socket; stops when it is cancelled."""
        while True:
            try:
                message = self._decoder.decode(await self._socket.recv())
            except WireError as error:
                self._counters["hosts/rejected_frames"] += 1
                log.warning("dropped a frame of %s: %s", self.address, error)
                continue
            if isinstance(message, Attached):
                self._on_attached(message)
                continue
            future = self._waiting.get(message.number)
            if future is None or future.done():
                self._counters["hosts/late_verdicts"] += 1
            elif isinstance(message, Judged):
                future.set_result(message.verdict)
            else:
                future.set_exception(HostLost(message.reason))

    def _on_attached(self, message: Attached) -> None:
        if message.protocol != VERIFIER_PROTOCOL:
            log.warning("%s speaks protocol %d, expected %d: not used", self.address, message.protocol, VERIFIER_PROTOCOL)
            return
        self.num_workers, self._verifiers = message.workers, frozenset(message.verifiers)
        self.attached.set()
        log.info("%s judges with %d workers", self.address, self.num_workers)

    async def _watch(self) -> None:
        """Consumes events of the connection; blocks on the monitor; stops when it is cancelled."""
        monitor = self._socket.get_monitor_socket()
        assert isinstance(monitor, zmq.asyncio.Socket)
        while True:
            event = parse_monitor_message(await monitor.recv_multipart())["event"]
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                await self._socket.send(encode(Attach(protocol=VERIFIER_PROTOCOL)))
                continue
            if event & REFUSED:
                log.warning("%s refused this client: are verifiers.keys those of that host?", self.address)
            elif self.num_workers:
                self._counters["hosts/lost"] += 1
                log.warning("%s is gone; its %d jobs are judged here", self.address, self.num_waiting)
            self._detach("is gone")

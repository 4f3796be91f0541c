"""Workers of other hosts beside one's own: a pool that shares its jobs with `prolong verifier` processes.

    verify() --> own workers, or the host with the fewest jobs per worker --Judge--> prolong verifier --Judged--> verdict
                     ^---- a host that is gone, silent, or does not know the verifier: judged here

Nothing but a name and texts goes out; the host finds the verifier in its own configuration. A job ends in one verdict: what a
host says after it was given up is counted and dropped.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Coroutine
from typing import Annotated, Any

import msgspec
import zmq
import zmq.asyncio
from zmq.utils.monitor import parse_monitor_message

from ...common.config.sections import VerifiersConfig
from ...common.errors import ConfigError, WireError
from ...common.transport.keys import ClientKeys, load_client_keys
from ...common.transport.sockets import REFUSED, check_address, close_watched, connect_dealer
from ...common.transport.wire import Decoder, encode
from ...common.types import MANY, FinishReason, Number, Prompt, Text, Verdict, Word
from ..registry import find
from .pool import VerifierPool, encodable

VERIFIER_PROTOCOL = 1
MAX_MESSAGE_BYTES = 64 << 20
AHEAD = 256  # jobs per worker of a host that wait there for each client at most
PATIENCE_S = 30.0  # on top of three deadlines of a job: then it is judged here

log = logging.getLogger(__name__)


class _Message(msgspec.Struct, frozen=True, kw_only=True, tag=True, forbid_unknown_fields=True):
    pass


class Attach(_Message, frozen=True):
    """Client -> host: the first message of a connection."""

    protocol: Number


class Judge(_Message, frozen=True):
    """Client -> host: one completion."""

    number: Number  # of the client
    prompt: Prompt
    completion: str
    finish_reason: FinishReason
    completion_ids: bytes = b""


class Attached(_Message, frozen=True):
    """Host -> client."""

    protocol: Number
    workers: Number
    verifiers: Annotated[list[Word], MANY]


class Judged(_Message, frozen=True):
    """Host -> client."""

    number: Number
    verdict: Verdict


class Declined(_Message, frozen=True):
    """Host -> client: it will not judge this one."""

    number: Number
    reason: Text


ToHost = Attach | Judge
FromHost = Attached | Judged | Declined


class HostLost(Exception):
    """No verdict comes from that host any more."""


class Host:
    """One `prolong verifier`, seen from a client."""

    def __init__(self, context: zmq.asyncio.Context, address: str, keys: ClientKeys | None, count: Any) -> None:
        self.address, self._count = address, count
        self.num_workers, self.verifiers = 0, frozenset[str]()  # 0 workers: it is not there
        self.attached = asyncio.Event()  # it is there
        self.waiting: dict[int, asyncio.Future[Verdict]] = {}
        socket = connect_dealer(context, address, MAX_MESSAGE_BYTES, keys=keys, watch=True)
        assert isinstance(socket, zmq.asyncio.Socket)
        self._socket = socket
        self._decoder = Decoder[FromHost](FromHost, MAX_MESSAGE_BYTES)
        self._tasks = [asyncio.create_task(self._lasting(work)) for work in (self._listen, self._watch)]

    @property
    def load(self) -> float:
        """Jobs in its hands per worker."""
        return len(self.waiting) / self.num_workers

    def may_take(self, verifier: str) -> bool:
        return verifier in self.verifiers and len(self.waiting) < AHEAD * self.num_workers

    async def judge(self, job: Judge, patience_s: float) -> Verdict:
        """Its verdict. Blocks for `patience_s` at most. Raises HostLost, and TimeoutError after that time."""
        frame = encode(job)
        if len(frame) > MAX_MESSAGE_BYTES:
            raise HostLost(f"a job of {len(frame)} bytes is too large to send")
        future = self.waiting[job.number] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(patience_s):
                await self._socket.send(frame)
                return await future
        finally:
            del self.waiting[job.number]

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        close_watched(self._socket, 0.0)

    async def _lasting(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Runs `work`. If it ends by a fault of ours, this host is not used any more, and says so."""
        try:
            await work()
        except Exception:
            self._count("hosts/broken")
            log.exception("%s is not used any more", self.address)
            for task in self._tasks:
                if task is not asyncio.current_task():
                    task.cancel()
            self._lose("fails here")

    def _lose(self, why: str) -> None:
        """No verdict comes from it until it attaches again."""
        self.num_workers, self.verifiers = 0, frozenset()
        self.attached.clear()
        for future in self.waiting.values():
            if not future.done():
                future.set_exception(HostLost(f"{self.address} {why}"))

    async def _listen(self) -> None:
        """Consumes frames of the host; blocks on the socket; stops when it is cancelled."""
        while True:
            try:
                message = self._decoder.decode(await self._socket.recv())
            except WireError as error:
                self._count("hosts/rejected_frames")
                log.warning("dropped a frame of %s: %s", self.address, error)
                continue
            if isinstance(message, Attached):
                self._attached(message)
                continue
            future = self.waiting.get(message.number)
            if future is None or future.done():
                self._count("hosts/late_verdicts")
            elif isinstance(message, Judged):
                future.set_result(message.verdict)
            else:
                future.set_exception(HostLost(message.reason))

    def _attached(self, message: Attached) -> None:
        if message.protocol != VERIFIER_PROTOCOL:
            log.warning("%s speaks protocol %d, expected %d: not used", self.address, message.protocol, VERIFIER_PROTOCOL)
            return
        self.num_workers, self.verifiers = message.workers, frozenset(message.verifiers)
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
                self._count("hosts/lost")
                log.warning("%s is gone; %d jobs of its are judged here", self.address, len(self.waiting))
            self._lose("is gone")


class SharedPool(VerifierPool):
    """A pool with workers of other hosts beside its own; those may come and go."""

    def __init__(self, workers: int, timeout_s: float, *, addresses: list[str], keys: str = "", **options: Any) -> None:
        """`keys`: a folder made by `prolong keys`; empty on loopback. Raises ConfigError for a bad address or bad keys."""
        super().__init__(workers, timeout_s, **options)
        self._addresses, self._keys = addresses, load_client_keys(keys)
        for address in addresses:
            try:
                check_address(address, has_keys=self._keys is not None)
            except ConfigError as error:
                raise ConfigError(f"verifiers.hosts with verifiers.keys = {keys!r}: {error}") from error
        self._hosts: list[Host] = []
        self._numbers_out = itertools.count()
        self._num_here = 0

    async def start(self) -> None:
        """Start own workers, and the connections to the hosts; waits for neither."""
        await super().start()
        self._context = zmq.asyncio.Context()
        self._hosts = [Host(self._context, address, self._keys, self._count) for address in self._addresses]

    async def verify(
        self, prompt: Prompt, completion: str, finish_reason: FinishReason, completion_ids: bytes = b""
    ) -> Verdict:
        """As the verdict of the own workers, wherever it comes from."""
        find(prompt.verifier, self._own)
        if self._broken:
            raise self._broken
        best = min((host for host in self._hosts if host.may_take(prompt.verifier)), key=lambda host: host.load, default=None)
        if best is not None and best.load < self._num_here / self._num_workers and finish_reason is not FinishReason.abort:
            job = Judge(
                number=next(self._numbers_out),
                prompt=prompt,
                completion=encodable(completion),
                finish_reason=finish_reason,
                completion_ids=completion_ids if prompt.verifier in self._own else b"",
            )
            try:
                verdict = await best.judge(job, 3 * self._timeout_s + PATIENCE_S)
                self._count("hosts/verdicts")
                return verdict
            except (HostLost, TimeoutError) as error:
                self._count("hosts/judged_here_instead")
                log.debug("judged here instead: %s", error or "no verdict in time")
        self._num_here += 1
        try:
            return await super().verify(prompt, completion, finish_reason, completion_ids)
        finally:
            self._num_here -= 1

    async def close(self) -> None:
        for host in self._hosts:
            await host.close()
        if self._hosts:
            self._context.term()
        self._hosts = []
        await super().close()

    def _count(self, name: str) -> None:
        self.counters[name] += 1


def make_pool(cfg: VerifiersConfig) -> VerifierPool:
    """The pool that the configuration asks for. Raises ConfigError."""
    options = {"own": cfg.own, "allow_unsafe_code": cfg.allow_unsafe_code}
    if not cfg.hosts:
        return VerifierPool(cfg.workers, cfg.timeout_s, **options)
    return SharedPool(cfg.workers, cfg.timeout_s, addresses=cfg.hosts, keys=cfg.keys, **options)

"""The server of `prolong verifier`: one pool that judges for the actors of other hosts.

actor --Judge--> VerifierServer --> pool --Judged--> actor
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from dataclasses import replace
from time import monotonic

import msgspec
import zmq
import zmq.asyncio

from ...common.config.verifiers import VerifiersConfig
from ...common.errors import AddressInUse, ConfigError, UserError, WireError
from ...common.transport.gate import AllowedFolder, Gate
from ...common.transport.keys import load_buffer_keys
from ...common.transport.quarantine import Quarantine
from ...common.transport.sockets import bind_router, endpoint_of
from ...common.transport.wire import Decoder, encode
from ..registry import VERIFIERS
from .host_messages import MAX_MESSAGE_BYTES, VERIFIER_PROTOCOL, Attach, Attached, Declined, Judge, Judged, ToHost
from .pool import VerifierPool, make_pool

MAX_JOBS = 10_000  # of one client, waiting here
GATE_MS = 200

log = logging.getLogger(__name__)


class VerifierServer:
    """Serves one pool on one ROUTER socket; made by `bind`, then `start`, `run`, `close`."""

    def __init__(
        self,
        context: zmq.Context,
        router: zmq.asyncio.Socket,
        gate: Gate | None,
        pool: VerifierPool,
        attached: Attached,
    ) -> None:
        """attached: the answer to every client's Attach."""
        self._context, self._router, self._gate, self._pool = context, router, gate, pool
        self._attached = attached
        self._own_counters: Counter[str] = Counter()
        self._decoder = Decoder[ToHost](ToHost, MAX_MESSAGE_BYTES)
        self._quarantine = Quarantine()
        self._jobs: Counter[bytes] = Counter()  # waiting here, by client

    @classmethod
    def bind(cls, cfg: VerifiersConfig, address: str) -> VerifierServer:
        """Bind the socket; clients wait until `run`. Must be called in an event loop. Raises AddressInUse, ConfigError."""
        context, keys = zmq.Context(), load_buffer_keys(cfg.keys)
        pool = make_pool(replace(cfg, hosts=[]))
        gate = Gate(context, AllowedFolder(keys.allowed)) if keys else None
        try:
            router = bind_router(zmq.asyncio.Context(shadow=context), address, MAX_MESSAGE_BYTES, keys.secret if keys else None)
        except AddressInUse as error:
            raise AddressInUse(f"--address {address}: in use by another process; stop it or choose another port") from error
        except ConfigError as error:
            raise ConfigError(f"--address with verifiers.keys = {cfg.keys!r}: {error}") from error
        assert isinstance(router, zmq.asyncio.Socket)
        verifiers = [name for name in (*VERIFIERS, *cfg.own) if name != "judge" or cfg.judge]
        attached = Attached(protocol=VERIFIER_PROTOCOL, workers=cfg.workers, verifiers=verifiers)
        return cls(context, router, gate, pool, attached)

    @property
    def endpoint(self) -> str:
        """The address that clients connect to, with the real port."""
        return endpoint_of(self._router)

    @property
    def counters(self) -> Counter[str]:
        """Events of the server and of its pool by name."""
        return self._pool.counters + self._own_counters

    async def start(self) -> None:
        """Start the pool and wait for its first worker. Raises ConfigError, VerifierFailure."""
        await self._pool.start()
        await self._pool.usable()

    async def run(self) -> None:
        """Serve until cancelled, or until the pool can judge no more. Raises the reason, perhaps in a group."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._receive(tasks))
            if self._gate is not None:
                tasks.create_task(self._let_in(self._gate))

    async def close(self) -> None:
        await self._pool.close()
        self._router.close(linger=0)
        if self._gate is not None:
            self._gate.close()
        self._context.term()

    async def _receive(self, tasks: asyncio.TaskGroup) -> None:
        """Consumes frames of clients; blocks on the socket; stops when cancelled."""
        while True:
            frames = await self._router.recv_multipart()
            peer = frames[0]
            if self._quarantine.holds(peer, monotonic()):
                continue
            try:
                message = self._decoder.decode(frames[1] if len(frames) == 2 else b"")
            except WireError as error:
                self._own_counters["rejected_frames"] += 1
                if self._quarantine.strike(peer, monotonic()):
                    log.warning("not listening to %r for a while: %s", peer[:80], error)
                continue
            if isinstance(message, Attach):
                await self._send(peer, self._attached)
            elif self._jobs[peer] >= MAX_JOBS:
                await self._send(peer, Declined(number=message.number, reason=f"{MAX_JOBS} of its jobs wait already"))
            else:
                self._jobs[peer] += 1
                tasks.create_task(self._judge(peer, message))

    async def _judge(self, peer: bytes, job: Judge) -> None:
        """Answer one job. Raises the reason if the pool can judge no more."""
        try:
            verdict = await self._pool.verify(job.prompt, job.completion, job.finish_reason, job.completion_ids)
            answer = Judged(number=job.number, verdict=verdict)
        except UserError as error:
            if self._pool.broken:
                raise
            answer = Declined(number=job.number, reason=f"{error!s:.1000}")
        finally:
            self._jobs[peer] -= 1
            if not self._jobs[peer]:
                del self._jobs[peer]
        await self._send(peer, answer)

    async def _send(self, peer: bytes, message: msgspec.Struct) -> None:
        try:
            await self._router.send_multipart((peer, encode(message)), zmq.NOBLOCK)
        except zmq.ZMQError:
            # the client is gone, or a thousand frames behind: at its deadline it judges the job by itself
            self._own_counters["dropped_sends"] += 1

    async def _let_in(self, gate: Gate) -> None:
        """Consumes libzmq's questions whether a client may connect; blocks on the gate's socket; stops when cancelled."""
        socket = zmq.asyncio.Socket.shadow(gate.socket)
        while True:
            await socket.poll(GATE_MS)
            if num_refused := gate.answer():
                self._own_counters["refused_keys"] += num_refused

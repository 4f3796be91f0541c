"""`prolong verifier`: a pool of verifier workers for the actors of other hosts; or, with --try, for a file of completions.

actor --Judge--> VerifierHost --> VerifierPool --Judged--> actor
"""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any

import msgspec
import zmq
import zmq.asyncio

from ...common.config.sections import VerifiersConfig
from ...common.data.records import is_unicode
from ...common.errors import AddressInUse, ConfigError, DataError, UserError, WireError
from ...common.transport.gate import Gate
from ...common.transport.keys import load_buffer_keys
from ...common.transport.quarantine import Quarantine
from ...common.transport.sockets import bind_router, endpoint_of
from ...common.transport.wire import Decoder, encode
from ...common.types import FinishReason, Prompt
from ..adapters.user_verifiers import declared
from ..registry import VERIFIERS, check_prompt
from .pool import VerifierPool
from .remote import MAX_MESSAGE_BYTES, VERIFIER_PROTOCOL, Attach, Attached, Declined, Judge, Judged, ToHost, make_pool

MAX_JOBS = 10_000  # of one client, waiting here
GATE_MS = 200

log = logging.getLogger(__name__)


class VerifierHost:
    """Serves one pool on one ROUTER."""

    def __init__(self, router: zmq.asyncio.Socket, pool: VerifierPool, cfg: VerifiersConfig) -> None:
        self.counters: Counter[str] = Counter()
        self._router, self._pool = router, pool
        verifiers = [*VERIFIERS, *cfg.own]
        self._attached = Attached(protocol=VERIFIER_PROTOCOL, workers=cfg.workers, verifiers=verifiers)
        self._decoder = Decoder[ToHost](ToHost, MAX_MESSAGE_BYTES)
        self._quarantine = Quarantine()
        self._jobs: Counter[bytes] = Counter()  # by client

    async def run(self) -> None:
        """Consumes frames of clients; blocks on the socket; stops when cancelled, or when the pool fails for good."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                frames = await self._router.recv_multipart()
                peer = frames[0]
                if self._quarantine.holds(peer, monotonic()):
                    continue
                try:
                    message = self._decoder.decode(frames[1] if len(frames) == 2 else b"")
                except WireError as error:
                    self.counters["rejected_frames"] += 1
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
        except zmq.ZMQError:  # gone, or a thousand frames behind: it judges by itself what it hears nothing of
            self.counters["dropped_sends"] += 1


def serve(cfg: VerifiersConfig, address: str) -> int:
    """Until SIGTERM or SIGINT. Raises: AddressInUse, ConfigError, VerifierFailure."""
    try:
        asyncio.run(_serve(cfg, address))
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from None
    return 0


async def _serve(cfg: VerifiersConfig, address: str) -> None:
    context, keys = zmq.Context(), load_buffer_keys(cfg.keys)
    pool = make_pool(replace(cfg, hosts=[]))
    gate = Gate(context, keys) if keys else None
    try:
        router = bind_router(zmq.asyncio.Context(shadow=context), address, MAX_MESSAGE_BYTES, keys)
    except AddressInUse as error:
        raise AddressInUse(f"--address {address}: in use by another process; stop it or choose another port") from error
    except ConfigError as error:
        raise ConfigError(f"--address with verifiers.keys = {cfg.keys!r}: {error}") from error
    assert isinstance(router, zmq.asyncio.Socket)
    host = VerifierHost(router, pool, cfg)
    await pool.start()
    try:
        await pool.usable()
        work = [asyncio.create_task(host.run()), *([asyncio.create_task(_let_in(gate, host.counters))] if gate else [])]
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, lambda: [task.cancel() for task in work])
        print(f"prolong verifier: {cfg.workers} workers at {endpoint_of(router)}", flush=True)
        await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
        for task in work:
            if task.done() and not task.cancelled():
                task.result()
    finally:
        await pool.close()
        router.close(linger=0)
        if gate:
            gate.close()
        context.term()
        counted = sorted((pool.counters + host.counters).items())
        print("prolong verifier: " + ", ".join(f"{name} {count}" for name, count in counted), flush=True)


async def _let_in(gate: Gate, counters: Counter[str]) -> None:
    """Consumes questions who may connect; blocks on the gate's socket; stops when cancelled."""
    socket = zmq.asyncio.Socket.shadow(gate.socket)
    while True:
        await socket.poll(GATE_MS)
        if num_refused := gate.answer():
            counters["buffer/refused_keys"] += num_refused


# --- --try ------------------------------------------------------------------------------------------------------------


def judge_file(cfg: VerifiersConfig, path: str) -> int:
    """Print a verdict as JSON for every line of `path` ("-": standard input); 1 if one has no reward. Raises: UserError."""
    own = declared(cfg.own)
    jobs = []
    for line, text in enumerate(_lines(path), start=1):
        try:
            jobs.append(_job(json.loads(text)))
            check_prompt(jobs[-1][0], own)
        except (ValueError, UserError) as error:
            raise DataError(f"{path}, line {line}: {str(error).removeprefix('prompt : ')}") from error
    verdicts = asyncio.run(_judge_all(cfg, jobs))
    for verdict in verdicts:
        print(json.dumps(msgspec.to_builtins(verdict)))
    return 1 if any(verdict.reward is None for verdict in verdicts) else 0


def _lines(path: str) -> list[str]:
    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    return [line for line in text.splitlines() if line.strip()]


def _job(record: Any) -> tuple[Prompt, str]:
    fields = ("verifier", "completion")
    if not isinstance(record, dict) or not all(isinstance(record.get(name), str) for name in fields):
        raise DataError(
            f'got {record!r:.100}; expected {{"verifier": NAME, "completion": TEXT, "answer": any JSON, "prompt": TEXT}}'
        )
    if not is_unicode(record):
        raise DataError("half of a surrogate pair (such as \\ud83d) in a text: no UTF-8 can hold it")
    answer = record.get("answer", {})
    answer = json.dumps(answer if isinstance(answer, dict) else {"answer": answer})
    text = str(record.get("prompt", ""))
    prompt = Prompt(uid="", domain="try", task="try", text=text, token_ids=b"", verifier=record["verifier"], answer=answer)
    return prompt, record["completion"]


async def _judge_all(cfg: VerifiersConfig, jobs: list[tuple[Prompt, str]]) -> list[Any]:
    pool = make_pool(replace(cfg, hosts=[]))
    await pool.start()
    try:
        return await asyncio.gather(*(pool.verify(prompt, text, FinishReason.stop) for prompt, text in jobs))
    finally:
        await pool.close()

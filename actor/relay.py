"""A relay: it pulls every version of the weights and lets actors pull from it, so that the learner uploads each version once.

buffer --UpdateWeights, WeightReaders--> Relay --pull--> learner, other relays        actors, relays --pull--> Relay

It holds no model and judges nothing: a machine with memory and a fast link, near the actors. Whoever pulls from it checks every
chunk against what the buffer said, so a relay can delay weights and not change them.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections import Counter
from time import monotonic
from typing import Protocol, assert_never

from ..buffer.client.client import BufferClient
from ..common.config.sections import Config
from ..common.errors import root_error
from ..common.messages import PROTOCOL_VERSION, Hello, Leave, Role, UpdateWeights, WeightReaders, WeightsApplied
from ..common.monitoring.endpoint import serve_vitals
from ..common.monitoring.vitals import Vitals
from ..common.trace import NO_TRACE
from ..common.transport.keys import load_client_keys
from ..common.types import PULL
from .conversation import CONNECT_S, Arrivals, Outbox, next_message
from .pulling import Pulling, check_serving_host
from .updates import Pulls, WeightUpdates
from .vitals import RelayVitals

FLUSH_S = 0.5  # for the last messages
LOG_S = 10.0  # between two lines about versions that came

RelayInput = UpdateWeights | WeightReaders

log = logging.getLogger(__name__)


def main(cfg: Config, name: str) -> int:
    """Run until the buffer says Stop (RunStopped), SIGTERM or SIGINT, or an error. Raises subclasses of ProlongError."""
    check_serving_host(cfg)
    try:
        with serve_vitals(cfg, "relay", name) as vitals:
            asyncio.run(_run(cfg, name, vitals))
    except BaseExceptionGroup as group:
        raise root_error(group) from None
    return 0


async def _run(cfg: Config, name: str, vitals: Vitals) -> None:
    pulling = Pulling(cfg.weights, load_client_keys(cfg.buffer.keys), serves=True)
    hello = Hello(
        role=Role.relay,
        name=name,
        protocol=PROTOCOL_VERSION,
        tokenizer="",
        host=socket.gethostname(),
        pid=os.getpid(),
        transport=PULL,
        serves=pulling.source,
    )
    client = BufferClient(cfg.buffer.address, hello, max_bytes=cfg.buffer.max_message_mb << 20, keys=cfg.buffer.keys)
    inbox = client.inbox(UpdateWeights, WeightReaders)
    try:
        welcome = await asyncio.to_thread(client.connect, CONNECT_S)
        assert pulling.source is not None
        log.info("%s serves weights at %s", name, pulling.source.endpoint)
        log.info("memory: once the model, and at most as much again for what changed between its versions")
        relay = Relay(client, inbox, pulling, timeout_s=cfg.weights.timeout_s, vitals=RelayVitals(vitals, cfg.buffer.lease_s))
        await relay.run(welcome.heartbeat_s)
    finally:
        client.close(FLUSH_S)
        pulling.close()


class RelayPulls(Pulls, Protocol):
    """The part of `Pulling` that a relay needs."""

    def counters(self) -> Counter[str]: ...


class NoEngine:
    """Takes the place of an engine: pulled weights stay where they are. Contract: `updates.WeightHolder`."""

    paused_s = 0.0

    async def apply_weights(self, update: UpdateWeights, timeout_s: float) -> list[int]:
        return []

    def supersede(self) -> None: ...


class RelayStats:
    """Counts and seconds since the relay started. Contract: `updates.UpdateStats`."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.seconds: dict[str, float] = {}

    def paused(self, seconds: float) -> None: ...

    def spent(self, name: str, seconds: float) -> None:
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds


class Relay:
    """The loop over the buffer's messages, and its tasks: at most one pull, one that reports statistics."""

    def __init__(
        self,
        client: Outbox,
        inbox: Arrivals[RelayInput],
        pulling: RelayPulls,
        *,
        timeout_s: float,
        vitals: RelayVitals | None = None,
    ) -> None:
        """`timeout_s`: weights.timeout_s."""
        self._client, self._inbox, self._pulling, self._vitals = client, inbox, pulling, vitals
        self._stats = RelayStats()
        self._said_at = float("-inf")  # when progress was last logged
        tracer = NO_TRACE if vitals is None else vitals.tracer
        self._updates = WeightUpdates(NoEngine(), pulling, self._stats, self._answer, timeout_s=timeout_s, tracer=tracer)

    async def run(self, heartbeat_s: float) -> None:
        """Serve until the run is over, or SIGTERM or SIGINT.

        Consumes: UpdateWeights, WeightReaders. Blocks on: the inbox. Unblocked by: a message, Stop, a dead buffer, a signal.
        Stops when: any of the last three. Those who pull from here go on with their next source.
        """
        leaving = asyncio.Event()
        for signum in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(signum, leaving.set)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._report(heartbeat_s))
                tasks.create_task(_leave(leaving))
                while True:
                    match await next_message(self._inbox):
                        case UpdateWeights() as update:
                            if self._updates.offer(update):
                                tasks.create_task(self._updates.apply_all())
                        case WeightReaders() as readers:
                            self._updates.admit(readers)
                        case _ as forgotten:
                            assert_never(forgotten)
        except BaseExceptionGroup as group:
            if not leaving.is_set():
                raise
            log.info("left: %r", root_error(group))
            self._client.send(Leave(reason="the relay was told to end"))

    def _answer(self, applied: WeightsApplied) -> None:
        self._client.send(applied)
        if not applied.error and monotonic() >= self._said_at + LOG_S:
            self._said_at = monotonic()
            pulled, sent = applied.num_bytes / 1e6, self._pulling.counters()["weights/sent_bytes"] / 1e6
            log.info("version %d: %.1f MB in %.1f s; %.1f MB sent so far", applied.version, pulled, applied.pull_s, sent)

    async def _report(self, every_s: float) -> None:
        while True:
            self._updates.check()
            counts = {**self._stats.counts, **self._pulling.counters()}
            numbers = {name: float(count) for name, count in counts.items()} | self._stats.seconds
            self._client.set_stats(numbers)
            if self._vitals is not None:
                self._vitals.note(numbers, has_weights=self._updates.generation >= 0)
            await asyncio.sleep(every_s)


async def _leave(leaving: asyncio.Event) -> None:
    await leaving.wait()
    raise _Left("a signal")


class _Left(Exception):
    """The end that a signal asked for."""

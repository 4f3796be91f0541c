"""What a buffer spends on actors that do nothing but live: by actor, by heartbeat, by tick; alone, and over real sockets.

`alone`: the real BufferCore without a socket, with a learner that offered a version and actors that pull. A message is handled
and the core ticks, as after a burst of one. `sockets`: the real service in a process of its own, and as many TCP connections as
actors, each of which says Hello, sends Heartbeats as often as the buffer asks for, and answers ZMTP's own pings; half the time
is measured. The share is CPU seconds of the buffer's process, with its I/O thread, by second. Times of the core are CPU time.
"""

from __future__ import annotations

import argparse
import sys
import threading
from collections.abc import Callable
from itertools import cycle
from time import monotonic, thread_time

import numpy as np
import psutil
import zmq

from ..buffer.core.core import BufferCore
from ..buffer.core.settings import RunSettings
from ..buffer.journal.disk import MemoryDisk
from ..buffer.journal.journal import Journal
from ..buffer.serving.service import BufferService
from ..buffer.tickets.mixture import PromptMixture
from ..common import messages as m
from ..common.config.sections import BufferConfig, Config, DataConfig, ModelConfig, RunConfig, SamplingConfig, SourceConfig
from ..common.json_object import JsonObject
from ..common.transport.sockets import bind_router, endpoint_of
from ..common.transport.wire import encode
from ..common.types import PULL, Manifest, Prompt, WeightSource
from .crowd import Crowd
from .measure import report
from .transport import MAX_BENCH_BYTES, announce, start_server, stop_server

SIZES = (100, 1_000, 10_000)
CAPACITY = 32
# as an actor's: seconds, tokens, engine counters
STATS = {f"number_{index}": 1000.5 * index for index in range(14)}
LEARNER = b"learner"
NUM_TICKS = 200
NUM_BEATS = 2_000


def make_core(num_actors: int) -> BufferCore:
    """A core whose contract admits half as many tickets as there are actors."""
    config = Config(
        run=RunConfig(steps=1_000_000),
        model=ModelConfig(path="none"),
        data=DataConfig(train=[SourceConfig(file="bench.jsonl")]),
        sampling=SamplingConfig(n=16, max_tokens=512),
        buffer=BufferConfig(batch_groups=max(num_actors // 8, 1), eta=3, max_message_mb=MAX_BENCH_BYTES >> 20),
    )
    prompts = [
        Prompt(uid=f"bench/{i}", domain="math", task="t", text="x" * 200, token_ids=bytes(800), verifier="math")
        for i in range(1_000)
    ]
    settings = RunSettings.from_config(config)
    return BufferCore.open(settings, PromptMixture([(prompts, 1.0)], 0), [], "t", Journal(MemoryDisk()), monotonic())


def hello_of(name: str, role: m.Role = m.Role.actor, version: int = -1) -> m.Hello:
    """The greeting of a client that pulls."""
    return m.Hello(
        role=role,
        name=name,
        protocol=m.PROTOCOL_VERSION,
        tokenizer="t",
        host=f"host-{name}",
        pid=1,
        capacity=CAPACITY,
        version=version,
        transport=PULL,
    )


def offer_of(generation: int, version: int) -> m.Offer:
    """The learner's word that a version can be pulled."""
    return m.Offer(
        generation=generation,
        version=version,
        manifest=Manifest(buckets=[]),
        checksums=[version],
        catalog=version.to_bytes(32, "big"),
        source=WeightSource(endpoint="tcp://127.0.0.1:1"),
    )


class Alone:
    """A core, its actors, and how long they take."""

    def __init__(self, num_actors: int) -> None:
        self.core = make_core(num_actors)
        self.names = [f"actor-{index}" for index in range(num_actors)]
        self.now = 0.0
        self._say(LEARNER, hello_of("learner", m.Role.learner, version=0))
        self.generation = self.core.run.store.generation

    def measure(self) -> JsonObject:
        """Microseconds by operation."""
        result: JsonObject = {}
        joins = [self._time(lambda name=name: self._say(name.encode(), hello_of(name)), 1) for name in self.names]
        result |= {"join_us": float(np.mean(joins)), "join_last_us": float(np.median(joins[-20:]))}
        self._say(LEARNER, offer_of(self.generation, 0))
        answers = [self._time(lambda name=name: self._say(name.encode(), self._applied(0)), 1) for name in self.names]
        result |= {"applied_us": float(np.mean(answers)), "applied_p99_us": float(np.quantile(answers, 0.99))}
        beat, senders = m.Heartbeat(stats=STATS), cycle([name.encode() for name in self.names])
        result["heartbeat_us"] = self._time(lambda: self.core.handle(next(senders), beat, self.now), NUM_BEATS)
        result["tick_us"] = self._time(lambda: self.core.tick(self.now), NUM_TICKS)
        self._say(LEARNER, m.TakeBatch(generation=self.generation, version=0))
        result["tick_of_a_waiting_learner_us"] = self._time(lambda: self.core.tick(self.now), NUM_TICKS)
        self._say(LEARNER, offer_of(self.generation, 1))
        result["offer_us"] = self._time(lambda: self._say(LEARNER, offer_of(self.generation, 2)), 1)
        result["status_us"] = self._time(lambda: self.core.status(self.now), 3)
        result["status_bytes"] = len(encode(self.core.status(self.now)))
        result["step_metrics_us"] = self._time(self.core.peers.actor_metrics, 3)
        result["step_metrics"] = len(self.core.peers.actor_metrics())
        return result

    def _applied(self, version: int) -> m.WeightsApplied:
        return m.WeightsApplied(
            generation=self.generation,
            version=version,
            epoch=-1,
            checksums=[version],
            seconds=0.1,
            catalog=version.to_bytes(32, "big"),
        )

    def _say(self, identity: bytes, message: m.FromClient) -> None:
        self.now += 1e-4
        self.core.handle(identity, message, self.now)
        self.core.tick(self.now)
        self.core.commit()

    @staticmethod
    def _time(call: Callable[[], object], times: int) -> float:
        started = thread_time()
        for _ in range(times):
            call()
        return 1e6 * (thread_time() - started) / times


def serve_buffer(num_actors: int) -> None:
    """Run the real core and service until stdin closes."""
    core = make_core(num_actors)
    with zmq.Context() as context, bind_router(context, "tcp://127.0.0.1:0", MAX_BENCH_BYTES) as router:
        service = BufferService(core, router, MAX_BENCH_BYTES)
        announce(endpoint_of(router))
        threading.Thread(target=lambda: (sys.stdin.read(), service.stop.set()), daemon=True).start()
        service.run()


def asked_pause_s(num_actors: int) -> float:
    """The pause between heartbeats that the buffer asks so many actors for."""
    core = make_core(num_actors)
    for index in range(num_actors):
        core.peers.join(b"%d" % index, hello_of(f"actor-{index}"), 0.0)
    [(_, alive)] = core.handle(b"0", m.Heartbeat(), 0.0)
    assert isinstance(alive, m.Alive)
    return alive.heartbeat_s


def measure_sockets(num_actors: int, every_s: float, seconds: float) -> JsonObject:
    """The share of a core that the buffer takes, and how soon heartbeats are answered."""
    server, address = start_server("prolong.bench.heartbeats", "--serve", "--actors", str(num_actors))
    process = psutil.Process(server.pid)
    hellos = [encode(hello_of(f"actor-{index}")) for index in range(num_actors)]
    crowd = Crowd(address, hellos, encode(m.Heartbeat(stats=STATS)), every_s)
    try:
        started = monotonic()
        crowd.greet(timeout_s=600.0)
        connected_s = monotonic() - started
        crowd.run(seconds / 2)
        crowd.forget()
        before, started = sum(process.cpu_times()[:2]), monotonic()
        crowd.run(seconds / 2)
        passed_s = monotonic() - started
        spent_s = sum(process.cpu_times()[:2]) - before
    finally:
        crowd.close()
        stop_server(server)
    return {
        "greeting_s": connected_s,
        "beats_per_s": crowd.num_answers / passed_s,
        "pause_s": every_s,
        "wanted_per_s": num_actors / every_s,
        "cpu_share": spent_s / passed_s,
        "cpu_us_per_beat": 1e6 * spent_s / max(crowd.num_answers, 1),
        "answer_p50_ms": 1e3 * float(np.quantile(crowd.waits_s or [0.0], 0.5)),
        "answer_p99_ms": 1e3 * float(np.quantile(crowd.waits_s or [0.0], 0.99)),
    }


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="prolong bench heartbeats", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    parser.add_argument("--actors", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--every", type=float, help="seconds between two heartbeats of an actor, instead of the buffer's")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each size")
    parser.add_argument("--only", choices=["alone", "sockets"])
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.serve:
        serve_buffer(args.actors[0])
        return 0
    result: JsonObject = {}
    for num_actors in args.actors:
        figures: JsonObject = {}
        if args.only != "sockets":
            figures |= Alone(num_actors).measure()
        if args.only != "alone":
            figures |= measure_sockets(num_actors, args.every or asked_pause_s(num_actors), args.seconds)
        result |= {f"{num_actors}_{key}": value for key, value in figures.items()}
    report(result, as_json=args.json)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""The cost of the protocol: acknowledged GroupResults through client and service, against the same bytes by PUSH/PULL.

Ours: encode, checksum, ROUTER/DEALER, typed decode, check, answer, resend table. Raw: prepared bytes, which are not looked at.
Rounds are interleaved (A B A B); the serving side is a process of its own. The idle round trip of one question is measured too.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import subprocess
import sys
import threading
from time import perf_counter, process_time, sleep

import numpy as np
import zmq

from ..buffer.client.client import BufferClient
from ..buffer.serving.service import BufferService
from ..common.json_object import JsonObject
from ..common.messages import (
    Alive,
    FromBuffer,
    FromClient,
    GroupAck,
    GroupResult,
    Heartbeat,
    Hello,
    Role,
    SyncRequested,
    TicketReturned,
    Welcome,
)
from ..common.transport.sockets import bind_router, endpoint_of
from ..common.transport.wire import encode
from ..common.types import (
    FinishReason,
    Group,
    Prompt,
    Rollout,
    Sampling,
    Ticket,
    TicketKind,
    ValidationSetting,
    Verdict,
    VerdictStatus,
    VersionSpan,
)
from .measure import report

MAX_BENCH_BYTES = 1 << 28
PEER_TIMEOUT_S = 60.0
ROLLOUTS = 16
SIZES = {"short": 32, "medium": 512, "long": 8192}  # tokens per rollout


class AckCore:
    """A core that acknowledges every group, and has no ledger."""

    def handle(self, peer: bytes, message: FromClient, now: float, frame: bytes = b"") -> list[tuple[bytes, FromBuffer]]:
        match message:
            case Hello():
                return [(peer, Welcome(generation=1, heartbeat_s=0.5, lease_s=10.0, version=0))]
            case Heartbeat():
                return [(peer, Alive(known=True))]
            case GroupResult():
                return [(peer, GroupAck(ordinal=message.group.ordinal, accepted=True))]
            case TicketReturned():
                return [(peer, SyncRequested(reason=message.reason))]
        return []

    def tick(self, now: float) -> list[tuple[bytes, FromBuffer]]:
        return []

    def commit(self) -> None:
        return None

    def may_leave(self, message: FromBuffer) -> bool:
        return True

    def admit_keys(self, keys: list[str]) -> None: ...

    def finished(self) -> bool:
        return False

    def stop(self, reason: str, *, failed: bool) -> list[tuple[bytes, FromBuffer]]:
        return []

    def count(self, name: str, amount: int = 1) -> None:
        raise RuntimeError(f"{name}: nothing may be dropped here")


def make_group(ordinal: int, num_tokens: int, ticket: Ticket | None = None) -> Group:
    """A group of random tokens, with prompt and version of the ticket if there is one."""
    rng = np.random.default_rng(ordinal)
    prompt = Prompt(uid="bench/1", domain="math", task="t", text="x" * 200, token_ids=bytes(800), verifier="math")
    version = 1 if ticket is None else ticket.version
    rollouts = [
        Rollout(
            token_ids=rng.integers(0, 150_000, num_tokens, dtype="<i4").tobytes(),
            behaviour_logprobs=(-rng.random(num_tokens, dtype="<f4")).tobytes(),
            spans=[VersionSpan(version=version, start=0, end=num_tokens)],
            finish_reason=FinishReason.stop,
            verdict=Verdict(reward=1.0, status=VerdictStatus.ok, verifier="math", seconds=0.01),
        )
        for _ in range(ROLLOUTS)
    ]
    return Group(
        ordinal=ordinal,
        kind=TicketKind.train,
        generation=1,
        prompt=prompt if ticket is None else ticket.prompt,
        setting=ValidationSetting.none,
        sampling=Sampling(n=ROLLOUTS, temperature=1.0, top_p=1.0, max_tokens=num_tokens),
        rollouts=rollouts,
        actor="actor",
        seconds=1.0,
        eta=None if ticket is None else ticket.eta,
    )


def serve_ours() -> None:
    """Run the service until stdin closes."""
    with zmq.Context() as context, bind_router(context, "tcp://127.0.0.1:0", MAX_BENCH_BYTES) as router:
        service = BufferService(AckCore(), router, MAX_BENCH_BYTES)
        announce(endpoint_of(router))
        threading.Thread(target=lambda: (sys.stdin.read(), service.stop.set()), daemon=True).start()
        service.run()


def serve_raw() -> None:
    """Count frames. After as many frames as a first frame announces, one byte is sent back."""
    with zmq.Context() as context, context.socket(zmq.PULL) as pull, context.socket(zmq.PUSH) as done:
        pull.bind("tcp://127.0.0.1:0")
        done.bind("tcp://127.0.0.1:0")
        announce(f"{endpoint_of(pull)} {endpoint_of(done)}")
        while count := int(pull.recv()):
            for _ in range(count):
                pull.recv()
            done.send(b"x")


def announce(text: str) -> None:
    """Tell the parent process the addresses, on stdout."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


class Ours:
    """Client and service."""

    def __init__(self) -> None:
        self.server, address = start_server("prolong.bench.transport", "--serve", "ours")
        hello = Hello(role=Role.actor, name="bench", protocol=1, tokenizer="t", host="h", pid=1)
        self.client = BufferClient(address, hello, max_bytes=MAX_BENCH_BYTES)
        self.acks, self.echoes = self.client.inbox(GroupAck), self.client.inbox(SyncRequested)
        self.client.connect(PEER_TIMEOUT_S)

    def send(self, groups: list[Group]) -> None:
        for group in groups:
            self.client.send(GroupResult(group=group))
        for _ in groups:
            self.acks.take(PEER_TIMEOUT_S)

    def round_trips_s(self, count: int = 300) -> list[float]:
        seconds = []
        for _ in range(count):
            sleep(0.001)  # idle before every question
            started = perf_counter()
            self.client.send(TicketReturned(ordinal=1, reason="x"))
            self.echoes.take(PEER_TIMEOUT_S)
            seconds.append(perf_counter() - started)
        return seconds

    def close(self) -> None:
        self.client.close()
        stop_server(self.server)


class Raw:
    """PUSH/PULL."""

    def __init__(self) -> None:
        self.server, addresses = start_server("prolong.bench.transport", "--serve", "raw")
        self.context = zmq.Context()
        self.push, self.done = self.context.socket(zmq.PUSH), self.context.socket(zmq.PULL)
        for one, address in zip((self.push, self.done), addresses.split(), strict=True):
            one.connect(address)

    def send(self, frames: list[bytes]) -> None:
        self.push.send(b"%d" % len(frames))
        for frame in frames:
            self.push.send(frame)
        if not self.done.poll(int(1000 * PEER_TIMEOUT_S)):
            raise RuntimeError(f"{len(frames)} frames did not arrive within {PEER_TIMEOUT_S} s")
        self.done.recv()

    def close(self) -> None:
        self.push.send(b"0")
        stop_server(self.server)
        self.context.destroy(linger=0)


def start_server(module: str, *arguments: str) -> tuple[subprocess.Popen, str]:
    """Start the receiving side in a process of its own. Returns the process and its addresses."""
    command = [sys.executable, "-m", module, *arguments]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    return server, server.stdout.readline().strip()


def stop_server(server: subprocess.Popen) -> None:
    """Close its stdin, and wait for its end."""
    server.communicate(timeout=PEER_TIMEOUT_S)


def compare_transport(ours: Ours, raw: Raw, num_tokens: int, rounds: int, round_bytes: int) -> dict[str, float]:
    """Medians over rounds, and of the paired ratios."""
    sample = encode(GroupResult(group=make_group(0, num_tokens)))
    count = max(8, min(4000, round_bytes // len(sample)))
    ordinals = itertools.count()
    seconds: dict[str, list[float]] = {"ours": [], "raw": []}
    cpu_s = {"ours": 0.0, "raw": 0.0}
    for _ in range(rounds + 1):  # the first one warms up
        groups = [make_group(next(ordinals), num_tokens) for _ in range(count)]
        frames = [encode(GroupResult(group=group)) for group in groups]
        for name, send, load in (("ours", ours.send, groups), ("raw", raw.send, frames)):
            started, busy = perf_counter(), process_time()
            send(load)  # pyright: ignore[reportArgumentType]
            seconds[name].append(perf_counter() - started)
            cpu_s[name] += process_time() - busy
    pairs = list(zip(seconds["ours"][1:], seconds["raw"][1:], strict=True))
    ours_s = statistics.median(mine for mine, _ in pairs)
    return {
        "group_bytes": len(sample),
        "groups_per_s": count / ours_s,
        "mb_per_s": count * len(sample) / ours_s / 1e6,
        "raw_mb_per_s": count * len(sample) / statistics.median(floor for _, floor in pairs) / 1e6,
        "share_of_raw": statistics.median(floor / mine for mine, floor in pairs),
        "sender_cpu_us_per_group": 1e6 * cpu_s["ours"] / (count * (rounds + 1)),
    }


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="prolong bench transport", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--round-mb", type=int, default=32, help="bytes sent in a round, about")
    parser.add_argument("--serve", choices=["ours", "raw"], help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.serve:
        (serve_ours if args.serve == "ours" else serve_raw)()
        return 0
    ours, raw = Ours(), Raw()
    try:
        trips = sorted(ours.round_trips_s())
        result: JsonObject = {"round_trip_ms": 1e3 * statistics.median(trips), "round_trip_p99_ms": 1e3 * trips[-3]}
        for name, num_tokens in SIZES.items():
            figures = compare_transport(ours, raw, num_tokens, args.rounds, args.round_mb << 20)
            result |= {f"{name}_{key}": value for key, value in figures.items()}
    finally:
        ours.close()
        raw.close()
    report(result, as_json=args.json)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

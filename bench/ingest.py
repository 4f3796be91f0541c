"""The rate of durable ingest: groups through client, service, ledger and journal, until they are acknowledged as durable.

It is compared with raw ZeroMQ PUSH/PULL of the same bytes, and with a `multiprocessing.Queue` of samples as dicts of lists (the
form in which TRL's asynchronous trainer passes them on). Rounds are interleaved (A B C D A B C D); each receiving side is a
process of its own. CPU seconds are those of both sides. The journal lies in --folder, which must be on a real disk. That disk
is the physical limit: the same bytes are appended to one file and flushed every 4 MiB, as the journal commits.

The first rounds do not count: the journal then writes fresh files, and later those whose groups are gone. `--parts` measures
the same groups with one part more in every arm: sockets; client and service (`protocol`); checks, ledger and a journal in
memory (`ledger`); the journal on the disk (`durable`).
"""

from __future__ import annotations

import argparse
import multiprocessing
import multiprocessing.queues
import os
import statistics
import sys
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, perf_counter, process_time
from typing import Any

import psutil
import zmq

from ..buffer.client.client import BufferClient
from ..buffer.core.core import BufferCore
from ..buffer.core.settings import RunSettings
from ..buffer.journal.journal import open_journal
from ..buffer.serving.memory import keep_freed_memory
from ..buffer.serving.service import BURST_BYTES, BufferService
from ..buffer.tickets.mixture import PromptMixture
from ..common import messages as m
from ..common.config.sections import BufferConfig, Config, DataConfig, ModelConfig, RunConfig, SamplingConfig, SourceConfig
from ..common.json_object import JsonObject
from ..common.transport.sockets import bind_router, endpoint_of
from ..common.transport.wire import encode
from ..common.types import Group, Manifest, Prompt, Rendezvous, Ticket
from .measure import report
from .transport import MAX_BENCH_BYTES, PEER_TIMEOUT_S, ROLLOUTS, Ours, Raw, announce, make_group, start_server, stop_server

NUM_TOKENS = 1024
ETA = 3
# until the checkpoints that are kept let go of the groups of the first round, and their segments are written again
WARM_ROUNDS = 6


def config(batch: int) -> Config:
    """A buffer that admits 4 x `batch` groups at once."""
    return Config(
        run=RunConfig(steps=1_000_000),
        model=ModelConfig(path="none", max_context=2 * NUM_TOKENS),
        data=DataConfig(train=[SourceConfig(file="bench.jsonl")]),
        sampling=SamplingConfig(n=ROLLOUTS, max_tokens=NUM_TOKENS),
        buffer=BufferConfig(batch_groups=batch, eta=ETA, dynamic_sampling=False, max_message_mb=MAX_BENCH_BYTES >> 20),
    )


def serve_durable_buffer(folder: str, batch: int, max_gb: float) -> None:
    """Run the real core, journal and service until stdin closes. `max_gb` 0: the journal is in memory."""
    keep_freed_memory()
    prompts = [
        Prompt(uid=f"bench/{i}", domain="math", task="t", text="x" * 200, token_ids=bytes(800), verifier="math")
        for i in range(100)
    ]
    journal = open_journal(Path(folder), max_gb=max_gb, keep_history=False, background=True)
    core = BufferCore.open(
        RunSettings.from_config(config(batch)), PromptMixture([(prompts, 1.0)], 0), [], "t", journal, monotonic()
    )
    with zmq.Context() as context, bind_router(context, "tcp://127.0.0.1:0", MAX_BENCH_BYTES) as router:
        service = BufferService(core, router, MAX_BENCH_BYTES)
        announce(endpoint_of(router))
        threading.Thread(target=lambda: (sys.stdin.read(), service.stop.set()), daemon=True).start()
        service.run()
    journal.close()


class Durable:
    """An actor and a learner; only the groups of the actor are measured."""

    def __init__(self, folder: Path, batch: int, *, max_gb: float = 16.0) -> None:
        self._batch = batch
        settings = ("--serve", str(folder), "--batch", str(batch), "--max-gb", str(max_gb))
        self.server, address = start_server("prolong.bench.ingest", *settings)
        self._actor, self._learner = self._client(address, m.Role.actor), self._client(address, m.Role.learner)
        self._tickets, self._acks = self._actor.inbox(m.Tickets), self._actor.inbox(m.GroupAck)
        self._updates = self._actor.inbox(m.UpdateWeights)
        self._batches, self._plans = self._learner.inbox(m.BatchReady), self._learner.inbox(m.PublishPlan)
        self._results = self._learner.inbox(m.PublishResult)
        self._version = 0
        self._actor.connect(PEER_TIMEOUT_S)
        self._generation = self._learner.connect(PEER_TIMEOUT_S).generation
        self._publish()

    @staticmethod
    def _client(address: str, role: m.Role) -> BufferClient:
        hello = m.Hello(
            role=role,
            name=role.value,
            protocol=m.PROTOCOL_VERSION,
            tokenizer="t",
            host="h",
            pid=1,
            capacity=1_000_000,
            version=0 if role is m.Role.learner else -1,
        )
        return BufferClient(address, hello, max_bytes=MAX_BENCH_BYTES)

    def _publish(self) -> None:
        generation, version = self._generation, self._version
        manifest, nowhere = Manifest(buckets=[]), Rendezvous(transport="collective", address=b"")
        publish = m.Publish(generation=generation, version=version, rendezvous=nowhere, manifest=manifest)
        self._learner.send(publish)
        epoch = self._plans.take(PEER_TIMEOUT_S).epoch
        self._updates.take(PEER_TIMEOUT_S)
        self._actor.send(m.WeightsApplied(generation=generation, version=version, epoch=epoch, checksums=[], seconds=0.0))
        self._results.take(PEER_TIMEOUT_S)

    def make_groups(self) -> list[Group]:
        """Groups for the tickets of one round, which are four batches."""
        tickets: list[Ticket] = []
        while len(tickets) < (ETA + 1) * self._batch:
            tickets += self._tickets.take(PEER_TIMEOUT_S).tickets
        return [make_group(ticket.ordinal, NUM_TOKENS, ticket) for ticket in tickets]

    def send(self, groups: list[Group]) -> None:
        """Send all groups, and wait until the last one is acknowledged as durable."""
        for group in groups:
            self._actor.send(m.GroupResult(group=group))
        for _ in groups:
            answer = self._acks.take(PEER_TIMEOUT_S)
            if not answer.accepted or answer.reason:
                raise RuntimeError(f"group {answer.ordinal} was not stored: {answer.reason}")

    def train(self) -> None:
        """Take and drop the batches of the round, as a learner that needs no time."""
        for _ in range(ETA + 1):
            self._learner.send(m.TakeBatch(generation=self._generation, version=self._version))
            self._batches.take(PEER_TIMEOUT_S)
            self._version += 1
            self._learner.send(m.StepDone(generation=self._generation, version=self._version))
        self._learner.send(m.CheckpointSaved(generation=self._generation, version=self._version))
        self._publish()

    def close(self) -> None:
        self._actor.close()
        self._learner.close()
        stop_server(self.server)


def trl_samples(group: Group) -> list[JsonObject]:
    """The group as TRL's samples: one dict per rollout, tokens as lists."""
    import numpy as np

    prompt = np.frombuffer(group.prompt.token_ids, dtype="<i4").tolist()
    return [
        {
            "prompt_ids": prompt,
            "completion_ids": np.frombuffer(rollout.token_ids, dtype="<i4").tolist(),
            "logprobs": np.frombuffer(rollout.behaviour_logprobs, dtype="<f4").tolist(),
            "reward": rollout.verdict.reward,
            "version": 1,
        }
        for rollout in group.rollouts
    ]


def drain(queue: multiprocessing.queues.Queue, done: multiprocessing.queues.Queue) -> None:
    """Take as many samples as a first message announces, then confirm; an announcement of 0 ends the process."""
    while count := queue.get():
        for _ in range(count):
            queue.get()
        done.put(count)


class Queue:
    """A `multiprocessing.Queue`."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._samples, self._done = context.Queue(), context.Queue()
        self.server = context.Process(target=drain, args=(self._samples, self._done), daemon=True)
        self.server.start()

    def send(self, samples: list[JsonObject]) -> None:
        self._samples.put(len(samples))
        for sample in samples:
            self._samples.put(sample)
        self._done.get(timeout=PEER_TIMEOUT_S)

    def close(self) -> None:
        self._samples.put(0)
        self.server.join(PEER_TIMEOUT_S)


class DiskBaseline:
    """Appends frames to a file, and flushes it as often as the journal does."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "appended"
        self.pid = os.getpid()

    def send(self, frames: list[bytes]) -> None:
        with self._path.open("wb", buffering=0) as file:
            unflushed = 0
            for frame in frames:
                file.write(frame)
                unflushed += len(frame)
                if unflushed > BURST_BYTES:
                    os.fdatasync(file)
                    unflushed = 0
            os.fdatasync(file)


@dataclass
class RoundTimes:
    """Wall and CPU seconds of one way, in every round."""

    server: int  # process id
    seconds: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)

    def measure(self, send: Any, load: Any) -> None:
        before, started = self._busy_s(), perf_counter()
        send(load)
        self.seconds.append(perf_counter() - started)
        self.cpu_s.append(self._busy_s() - before)

    def _busy_s(self) -> float:
        """CPU seconds of this process, and of the receiving process if there is another one."""
        there = 0.0 if self.server == os.getpid() else sum(psutil.Process(self.server).cpu_times()[:2])
        return process_time() + there

    def summary(self, num_groups: int) -> dict[str, float]:
        seconds, cpu_s = statistics.median(self.seconds[WARM_ROUNDS:]), statistics.median(self.cpu_s[WARM_ROUNDS:])
        return {"groups_per_s": num_groups / seconds, "cpu_ms_per_group": 1e3 * cpu_s / num_groups}


def compare_ingest(folder: Path, rounds: int, batch: int) -> JsonObject:
    """Medians over rounds, and of the paired ratios."""
    durable, raw, queue, disk = Durable(folder, batch), Raw(), Queue(), DiskBaseline(folder)
    assert queue.server.pid is not None
    servers = {"durable": durable.server.pid, "raw": raw.server.pid, "queue": queue.server.pid, "disk": disk.pid}
    spent = {name: RoundTimes(pid) for name, pid in servers.items()}
    groups: list[Group] = []
    frames: list[bytes] = []
    try:
        for _ in range(WARM_ROUNDS + rounds):
            groups = durable.make_groups()
            frames = [encode(m.GroupResult(group=group)) for group in groups]
            samples = [sample for group in groups for sample in trl_samples(group)]
            spent["durable"].measure(durable.send, groups)
            spent["raw"].measure(raw.send, frames)
            spent["queue"].measure(queue.send, samples)
            spent["disk"].measure(disk.send, frames)
            durable.train()
    finally:
        for way in (durable, raw, queue):
            way.close()
    mine, floor, peer, limit = (spent[name].seconds[WARM_ROUNDS:] for name in ("durable", "raw", "queue", "disk"))
    result: JsonObject = {"groups": len(groups), "group_bytes": len(frames[0]), "rounds": rounds}
    for name, one in spent.items():
        result |= {f"{name}_{key}": value for key, value in one.summary(len(groups)).items()}
    result["durable_mb_per_s"] = result["durable_groups_per_s"] * len(frames[0]) / 1e6
    result["share_of_raw"] = statistics.median(b / a for a, b in zip(mine, floor, strict=True))
    result["share_of_disk"] = statistics.median(b / a for a, b in zip(mine, limit, strict=True))
    result["times_queue"] = statistics.median(b / a for a, b in zip(mine, peer, strict=True))
    return result


def compare_parts(folder: Path, rounds: int, batch: int) -> JsonObject:
    """Medians over rounds of each arm, and its share of the sockets' rate."""
    raw, protocol, ledger, durable = Raw(), Ours(), Durable(folder, batch, max_gb=0.0), Durable(folder, batch)
    arms = {"sockets": raw, "protocol": protocol, "ledger": ledger, "durable": durable}
    spent = {name: RoundTimes(arm.server.pid) for name, arm in arms.items()}
    groups: list[Group] = []
    try:
        for _ in range(WARM_ROUNDS + rounds):
            groups = durable.make_groups()
            spent["sockets"].measure(raw.send, [encode(m.GroupResult(group=group)) for group in groups])
            spent["protocol"].measure(protocol.send, groups)
            spent["durable"].measure(durable.send, groups)
            spent["ledger"].measure(ledger.send, ledger.make_groups())
            durable.train()
            ledger.train()
    finally:
        for arm in arms.values():
            arm.close()
    result: JsonObject = {"groups": len(groups), "rounds": rounds}
    floor = spent["sockets"].seconds[WARM_ROUNDS:]
    for name, one in spent.items():
        result |= {f"{name}_{key}": value for key, value in one.summary(len(groups)).items()}
        pairs = zip(floor, one.seconds[WARM_ROUNDS:], strict=True)
        result[f"{name}_share_of_sockets"] = statistics.median(a / b for a, b in pairs)
    return result


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="prolong bench ingest", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batch", type=int, default=64, help="a round is four times as many groups")
    parser.add_argument("--folder", type=Path, default=Path("runs"), help="the journal is made, and removed, in here")
    parser.add_argument("--parts", action="store_true", help="what each part costs, instead of the comparison")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--max-gb", type=float, default=16.0, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.serve:
        serve_durable_buffer(args.serve, args.batch, args.max_gb)
        return 0
    args.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.folder, prefix="ingest-") as folder:
        result = (compare_parts if args.parts else compare_ingest)(Path(folder), args.rounds, args.batch)
    report(result, as_json=args.json)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

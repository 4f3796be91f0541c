"""The cost of the ledger by the number of live tickets: issue, store and select in microseconds, and bytes per ticket.

One process, no socket: the real RunState, through `Store` and `Leases` as the core calls them, and a journal whose disk forgets
everything but the newest state. For every size n two shapes are measured: `wide` (ten batches of n / 10 groups) and `deep`
(batches of 512 groups, and as many versions as it takes). Groups arrive in random order. An operation is timed alone; `select`
is the time of a whole batch by its groups; `commit` is the recording of 256 operations by operation; `idle` is what is looked
at when nothing is due. `restart`, by ticket: a buffer with n tickets, half of them stored, is opened from its journal in
--folder. Growth is the ratio of the largest size to the smallest; log n grows from 10^3 to 10^6 by a factor of 2.
"""

from __future__ import annotations

import argparse
import gc
import random
import subprocess
import sys
import tempfile
from array import array
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from time import perf_counter, thread_time, thread_time_ns

import msgspec
import numpy as np
import psutil

from ..buffer.core.run_state import RunState
from ..buffer.core.settings import RunSettings
from ..buffer.journal.disk import MemoryDisk
from ..buffer.journal.journal import Journal, open_journal
from ..buffer.journal.records import NEWEST
from ..buffer.serving.garbage import survivors_set_aside
from ..buffer.tickets.mixture import PromptMixture
from ..common.config.sections import BufferConfig, Config, DataConfig, ModelConfig, RunConfig, SamplingConfig, SourceConfig
from ..common.json_object import JsonObject
from ..common.types import Group, Prompt, Rollout, Ticket
from .measure import report
from .transport import make_group

SIZES = (1_000, 10_000, 100_000, 1_000_000)
SHAPES = ("wide", "deep", "restart")
DEEP_BATCH, WIDE_BATCHES = 512, 10
TIMEOUT_S = 3600.0  # of one size
ROLLOUTS, NUM_TOKENS = 2, 16
NUM_PROMPTS, NUM_ACTORS = 1_000, 1_000
FRAME = b"group"  # what the journal records of a group
BURST = 256  # operations between two commits, as in the service
NUM_IDLE = 200
MAX_ROUNDS, MAX_ROUND_GROUPS = 20, 200_000


class ForgetfulDisk(MemoryDisk):
    """Keeps the newest state alone: the memory of the ledger is measured, and not that of a disk."""

    def commit(self, put: Mapping[bytes, bytes], drop: Collection[bytes]) -> None:
        super().commit({key: value for key, value in put.items() if key == NEWEST}, ())


def new_run_state(eta: int, batch: int, journal: Journal) -> RunState:
    """The run that the journal describes, or a new one of generation 1 at version 0."""
    config = Config(
        run=RunConfig(steps=1_000_000),
        model=ModelConfig(path="none", max_context=2 * NUM_TOKENS),
        data=DataConfig(train=[SourceConfig(file="bench.jsonl")]),
        sampling=SamplingConfig(n=ROLLOUTS, max_tokens=NUM_TOKENS),
        buffer=BufferConfig(batch_groups=batch, eta=eta, dynamic_sampling=False, keep_history=False),
    )
    prompts = [
        Prompt(uid=f"bench/{i}", domain="math", task="t", text="x" * 200, token_ids=bytes(800), verifier="math")
        for i in range(NUM_PROMPTS)
    ]
    mixture = PromptMixture([(prompts, 1.0)], 0)
    run = RunState.open(RunSettings.from_config(config), mixture, [], journal, 0.0)
    if run.store.generation == 0:
        run.admit_learner(0, -1, 0)
    return run


class LedgerLoad:
    """Tickets of one run, issued and stored one at a time, with the nanoseconds of each operation."""

    def __init__(self, eta: int, batch: int, journal: Journal | None = None) -> None:
        self.run = new_run_state(eta, batch, journal or Journal(ForgetfulDisk()))
        self.capacity = (eta + 1) * batch
        # what the journal records of a group; empty: its true frame
        self.frame = FRAME
        self.issue_ns, self.store_ns, self.commit_ns = array("q"), array("q"), array("q")
        self.select_us: list[float] = []
        self._leased: list[Ticket] = []
        self._random = random.Random(0)
        self._rollouts: dict[int, list[Rollout]] = {}  # by version

    def fill(self) -> None:
        """Issue and lease as many tickets as admission allows."""
        run, version = self.run, self.run.store.version
        while True:
            actor = f"actor-{run.next_ordinal % NUM_ACTORS}"
            started = thread_time_ns()
            if not run.store.admits(version):
                break
            ticket = run.store.issue(run.take_ordinal(), version)
            run.leases.grant(ticket, actor, 0.0)
            self.issue_ns.append(thread_time_ns() - started)
            self._leased.append(ticket)
            self._commit_burst(run.next_ordinal)
        # a ticket is recorded before an actor is told of it
        self.commit()

    def store(self, num_left: int = 0) -> None:
        """Store the groups of all leased tickets but `num_left`, in random order."""
        run, leased = self.run, self._leased
        self._random.shuffle(leased)
        while len(leased) > num_left:
            ticket = leased.pop()
            group = self._group(ticket)
            started = thread_time_ns()
            run.leases.end(ticket.ordinal)
            outcome, why = run.store.take_group(group, ticket, self.frame)
            self.store_ns.append(thread_time_ns() - started)
            if why:
                raise RuntimeError(f"group {ticket.ordinal} is {outcome}: {why}")
            self._commit_burst(len(leased))

    def _group(self, ticket: Ticket) -> Group:
        """The group of a ticket; those of one version share their rollouts: the ledger is measured, and not its load."""
        if ticket.version not in self._rollouts:
            self._rollouts = {ticket.version: make_group(0, NUM_TOKENS, ticket).rollouts[:ROLLOUTS]}
        return Group.for_ticket(ticket, self._rollouts[ticket.version], actor="actor-0", seconds=1.0)

    def _commit_burst(self, count: int) -> None:
        if count % BURST == 0:
            self.commit()

    def commit(self) -> None:
        """Record what happened."""
        started = thread_time_ns()
        self.run.commit()
        self.commit_ns.append((thread_time_ns() - started) // BURST)

    def select(self) -> None:
        """Form one batch, and train it."""
        started = thread_time_ns()
        batch = self.run.store.try_take()
        self.select_us.append(1e-3 * (thread_time_ns() - started) / self.run.store.batch_groups)
        if batch is None:
            raise RuntimeError("every group is stored, and there is no batch")
        self.run.store.step_done()
        self.commit()

    def idle_us(self) -> float:
        """Microseconds of one look at what is due, when nothing is."""
        started = thread_time()
        for _ in range(NUM_IDLE):
            self.run.leases.overdue_actors(1.0)
            self.run.leases.expired(1.0)
            self.run.handovers.expired(1.0)
            self.run.store.check()
        return 1e6 * (thread_time() - started) / NUM_IDLE


def measure_size(size: int, shape: str) -> JsonObject:
    """The figures of one size and shape, in this process."""
    eta, batch = (WIDE_BATCHES - 1, size // WIDE_BATCHES) if shape == "wide" else (max(size // DEEP_BATCH, 1) - 1, DEEP_BATCH)
    load = LedgerLoad(eta, batch)
    gc.collect()
    rss = psutil.Process().memory_info().rss
    load.fill()
    idle_leased_us = load.idle_us()
    gc.collect()
    leased_bytes = psutil.Process().memory_info().rss - rss
    load.store()
    idle_us = max(idle_leased_us, load.idle_us())
    rounds = min(MAX_ROUNDS, max(3, MAX_ROUND_GROUPS // batch))
    for _ in range(rounds):
        load.select()
        load.fill()
        load.store()
    result: JsonObject = {"live": load.capacity, "eta": eta, "batch": batch}
    for name, times in (("issue", load.issue_ns), ("store", load.store_ns), ("commit", load.commit_ns)):
        result |= _quantiles(name, times)
    result["select_p50_us"], result["select_max_us"] = float(np.median(load.select_us)), max(load.select_us)
    result |= {"idle_us": idle_us, "leased_bytes": leased_bytes / load.capacity}
    return result


def measure_restart(size: int, folder: str) -> JsonObject:
    """Microseconds by ticket until a buffer has read its journal."""
    eta, batch = WIDE_BATCHES - 1, size // WIDE_BATCHES
    journal = open_journal(Path(folder), max_gb=64.0, keep_history=False)
    load = LedgerLoad(eta, batch, journal)
    load.frame = b""
    load.fill()
    load.store(size // 2)
    load.commit()
    counts = load.run.store.ledger.as_dict()
    journal.close()
    journal = open_journal(Path(folder), max_gb=64.0, keep_history=False)
    started = perf_counter()
    run = new_run_state(eta, batch, journal)
    seconds = perf_counter() - started
    journal.close()
    if run.store.ledger.as_dict() != counts:
        raise RuntimeError(f"the ledger was {counts}, and is {run.store.ledger.as_dict()}")
    return {"restart_us": 1e6 * seconds / size, "restart_s": seconds}


def _quantiles(name: str, nanoseconds: Sequence[int]) -> JsonObject:
    p50, p99 = np.quantile(np.asarray(nanoseconds), (0.5, 0.99)) / 1e3
    return {f"{name}_p50_us": float(p50), f"{name}_p99_us": float(p99), f"{name}_max_ms": max(nanoseconds) / 1e6}


def measure_all(sizes: Sequence[int], shapes: Sequence[str], folder: Path) -> JsonObject:
    """The figures of all sizes, each in a process of its own, and their growth from the first to the last."""
    result: JsonObject = {}
    for shape in shapes:
        by_size = {size: _in_a_process(size, shape, folder) for size in sizes}
        for size, figures in by_size.items():
            result |= {f"{shape}_{size}_{key}": value for key, value in figures.items()}
        first, last = by_size[sizes[0]], by_size[sizes[-1]]
        growing = [key for key in first if key.endswith("_us") and "max" not in key]
        result |= {f"{shape}_growth_{key.removesuffix('_us')}": last[key] / max(first[key], 1e-9) for key in growing}
    return result


def _in_a_process(size: int, shape: str, folder: Path) -> JsonObject:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix="ledger-") as empty:
        command = [sys.executable, "-m", "prolong.bench.ledger", "--one", shape, "--sizes", str(size), "--folder", empty]
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: exit code {done.returncode}\n{done.stderr[-2000:]}")
    return msgspec.json.decode(done.stdout, type=dict)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="prolong bench ledger", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), help="live tickets, ascending")
    parser.add_argument("--shapes", choices=SHAPES, nargs="+", default=SHAPES)
    parser.add_argument("--folder", type=Path, default=Path("runs"), help="the journal is made, and removed, in here")
    parser.add_argument("--one", choices=SHAPES, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.one:
        [size] = args.sizes
        # as the buffer's process does
        with survivors_set_aside():
            figures = measure_restart(size, args.folder) if args.one == "restart" else measure_size(size, args.one)
        sys.stdout.write(msgspec.json.encode(figures).decode())
        return 0
    report(measure_all(args.sizes, args.shapes, args.folder), as_json=args.json)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

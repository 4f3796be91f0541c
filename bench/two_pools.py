"""Two actors on one machine, one of which has a quarter of a core: tickets by forecast against tickets by free room.

The pool `fast` has a core to itself. The pool `slow` has --share of the other core's time, by a quota of the system
(cpu_quota.py), beside learner and buffer. Both have the same settings, and room for more than a batch: an actor does not say
that it is slow. Arms are run one after the other, roof, A, B, A, B, ..., roof:

    roof        a bound on staleness that nobody reaches: both actors are always full. Its tokens per second are what there is
    even        buffer.dispatch=even: each ticket goes to the actor with the largest share of its room free
    forecast    buffer.dispatch=forecast

The policy does not change (learning rate near 0), so that lengths do not. Printed are the tokens per second of each arm as a
share of the roof, and of each actor as a share of what it reached there.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import monotonic, sleep

from ..buffer.client.observer import request_status
from ..common.errors import BufferUnreachable
from .cpu_quota import pin, quota
from .measure import report

ACTORS = ("fast-0", "slow-0")
START_S = 240.0  # for engines to start and the first steps, on a machine that is busy
LOAD = [
    "data.train=[{file: models/demo/train.jsonl, only: math}, {file: models/demo/train.jsonl, only: logic}]",
    "data.heldout=[]",
    "buffer.dynamic_sampling=false",
    "buffer.batch_groups=8",
    "buffer.heartbeat_s=0.5",
    "sampling.n=8",
    "objective.kl_beta=0",
    "reference.reset_every=0",
    "learner.lr=1e-12",
    "validation.every=0",
    "validation.greedy=false",
    "checkpoint.every=100000",
    "checkpoint.every_s=0",
    "run.steps=100000",
    "actor.capacity=64",
    "pools={fast: {count: 1}, slow: {count: 1}}",
]
Numbers = dict[str, float]
Peers = dict[str, dict[str, float | str]]


class Arm:
    """One run of `prolong train` whose actors are given their cores as soon as both work."""

    def __init__(self, name: str, overrides: Sequence[str], root: Path, recipe: str) -> None:
        self.folder = root / name
        fixed = [f"run.name={name}", f"run.root={root}", "run.resume=false", "buffer.address=tcp://127.0.0.1:0"]
        line = [sys.executable, "-m", "prolong.launch.cli", "train", "--recipe", recipe, *LOAD, *fixed, *overrides]
        self.folder.mkdir(parents=True, exist_ok=True)
        self._log = self.folder / "train.log"
        with self._log.open("wb") as log:
            self._train = subprocess.Popen(line, stdout=log, stderr=log, start_new_session=True)

    def peers(self) -> Peers:
        """Who is connected now, with the numbers of their last heartbeats. Raises RuntimeError when the run has ended."""
        if self._train.poll() is not None:
            raise RuntimeError(f"{self.folder}: the run ended\n{self._log.read_text(errors='replace')[-3000:]}")
        try:
            note = json.loads((self.folder / "buffer.json").read_text())
            return request_status(note["address"], 5.0).peers
        except (FileNotFoundError, BufferUnreachable, json.JSONDecodeError):
            return {}

    def wait_for_both(self) -> Peers:
        """Until both actors have sampled tokens. Raises RuntimeError after START_S."""
        deadline = monotonic() + START_S
        while monotonic() < deadline:
            peers = self.peers()
            if all(_number(peers, name, "engine_tokens") > 0 for name in ACTORS):
                return peers
            sleep(0.5)
        raise RuntimeError(f"{self.folder}: not both actors worked within {START_S:g} s")

    def measure(self, settle_s: float, seconds: float) -> Numbers:
        """What each actor sampled per second, and the share of a core that it used, between two of its heartbeats."""
        sleep(settle_s)
        # not `peers`: a buffer that does not answer in time would count as actors that sampled nothing
        first, start = self.wait_for_both(), monotonic()
        sleep(seconds)
        last, passed = self.wait_for_both(), monotonic() - start
        grown = {
            f"{name}/{key}": _number(last, name, key) - _number(first, name, key)
            for name in ACTORS
            for key in ("engine_tokens", "cpu_s", "busy_s", "idle_s")
        }
        return {key: value / passed for key, value in grown.items()}

    def stop(self) -> None:
        """Ctrl-C, and wait for the end."""
        self._train.send_signal(signal.SIGINT)
        try:
            self._train.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(self._train.pid, signal.SIGKILL)
            self._train.wait()


def _number(peers: Peers, name: str, key: str) -> float:
    value = peers.get(name, {}).get(key, 0.0)
    return value if isinstance(value, int | float) else 0.0


@contextlib.contextmanager
def arm_of_both(name: str, overrides: Sequence[str], args: argparse.Namespace) -> Iterator[tuple[Arm, str]]:
    """A run of both actors, each with its cores and its quota; and how that is held."""
    arm = Arm(name, [*overrides, *args.overrides], args.root, args.recipe)
    try:
        peers = arm.wait_for_both()
        pids = {name: int(_number(peers, name, "pid")) for name in (*ACTORS, "learner")}
        cores = sorted(os.sched_getaffinity(0))
        for who, pid in pids.items():
            pin(pid, {cores[0]} if who == "fast-0" or len(cores) == 1 else set(cores[1:2]))
        with quota(pids["slow-0"], args.share) as how:
            yield arm, how
    finally:
        arm.stop()


def compared(arms: Sequence[tuple[str, Numbers]]) -> dict[str, dict[str, float]]:
    """Of each arm, as medians over its runs: tokens per second, of both and each actor, as shares of the roof's."""
    by_arm: dict[str, list[Numbers]] = {}
    for arm, numbers in arms:
        by_arm.setdefault(arm, []).append(numbers | {"both/engine_tokens": sum(numbers[f"{a}/engine_tokens"] for a in ACTORS)})
    median = {arm: {key: statistics.median(run[key] for run in runs) for key in runs[0]} for arm, runs in by_arm.items()}
    roof = median["roof"]
    return {
        arm: {
            "tokens_per_s": numbers["both/engine_tokens"],
            **{
                f"share_of_roof/{who}": numbers[f"{who}/engine_tokens"] / max(roof[f"{who}/engine_tokens"], 1e-9)
                for who in ("both", *ACTORS)
            },
            **{f"cpu_share/{actor}": numbers[f"{actor}/cpu_s"] for actor in ACTORS},
        }
        for arm, numbers in median.items()
    }


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="prolong bench two-pools", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipe", default="demo")
    parser.add_argument("--rounds", type=int, default=2, help="of even and forecast")
    parser.add_argument("--share", type=float, default=0.25, help="of a core, for the slow actor")
    parser.add_argument("--eta", type=int, default=1)
    parser.add_argument("--settle", type=float, default=15.0, help="seconds before each measurement")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each measurement")
    parser.add_argument("--root", type=Path, default=Path("runs/bench-two-pools"))
    parser.add_argument("--json", action="store_true")
    parser.add_argument("overrides", nargs="*")
    args = parser.parse_args(argv)
    plan = ["roof", *("even", "forecast") * args.rounds, "roof"]
    settings = {
        "roof": ["buffer.eta=64", "buffer.dispatch=even"],
        "even": [f"buffer.eta={args.eta}", "buffer.dispatch=even"],
        "forecast": [f"buffer.eta={args.eta}", "buffer.dispatch=forecast"],
    }
    measured: list[tuple[str, Numbers]] = []
    how = ""
    for index, kind in enumerate(plan):
        with arm_of_both(f"{index}-{kind}-{os.getpid()}", settings[kind], args) as (arm, kept):
            measured.append((kind, arm.measure(args.settle, args.seconds)))
            how = kept
        print(f"{kind}: {measured[-1][1]}", file=sys.stderr, flush=True)
    report({"bench": "two-pools", "eta": args.eta, "quota": how, "arms": compared(measured)}, as_json=args.json)
    return 0

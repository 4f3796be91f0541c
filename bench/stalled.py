"""Memory of a run whose learner hangs: SIGSTOP in the middle, SIGCONT a minute later. The run must end well.

The memory (PSS) of each role is sampled every half second before, during and after the stop. It is bounded: at most (eta + 1) B
groups wait for a learner that stands still, and then the actors are idle.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from time import monotonic

from ..common.config.run_files import RunPaths
from ..common.json_object import JsonObject
from ..common.metrics import read_metrics
from ..launch.status import run_status
from .footprint import Footprints, FootprintSample
from .measure import report

WATCHED = ("buffer", "actor", "engine", "verifier")
STALL_POLL_S = 0.1
LIMIT_S = 600.0
MIB = 2**20


class LiveRun:
    """A live `prolong train`, which ends with this process, or else at the end of the `with` block."""

    def __init__(self, root: Path, name: str, overrides: list[str]) -> None:
        self.paths = RunPaths(root / name)
        shutil.rmtree(self.paths.folder, ignore_errors=True)
        root.mkdir(parents=True, exist_ok=True)
        self._log = root / f"{name}.log"
        command = [sys.executable, "-m", "prolong.launch.cli", "train", "--recipe", "demo"]
        command += [f"run.name={name}", f"run.root={root}", "buffer.address=tcp://127.0.0.1:0", *overrides]
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)

    def __enter__(self) -> LiveRun:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(timeout=30.0)

    @property
    def step(self) -> int:
        """The newest recorded step."""
        records = read_metrics(self.paths.metrics) if self.paths.metrics.exists() else []
        return records[-1]["step"] if records else 0

    def wait_until(self, what: str, met: Callable[[], bool]) -> None:
        """Wait for a condition. Raises: RuntimeError with the end of the log when the run ends or LIMIT_S pass before."""
        deadline = monotonic() + LIMIT_S
        while not met():
            if self.ended_within(STALL_POLL_S) or monotonic() > deadline:
                raise RuntimeError(f"expected {what}; the run's log ends so:\n{self._log.read_text(errors='replace')[-3000:]}")

    def ended_within(self, timeout_s: float) -> bool:
        """Whether the run ends within this time; waits for so long at most."""
        try:
            self.process.wait(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True


def stall(run: LiveRun, footprints: Footprints, at_step: int, stopped_s: float) -> JsonObject:
    """Stop the ranks of the learner at `at_step`, continue them after `stopped_s`, wait for the end of the run."""
    run.wait_until(f"step {at_step}", lambda: run.step >= at_step)
    ranks, began = footprints.processes("learner"), monotonic()
    for rank in ranks:
        rank.suspend()
    if run.ended_within(stopped_s):
        raise RuntimeError("the run ended while its learner was stopped")
    ended, stopped_at, status = monotonic(), run.step, run_status(run.paths)
    for rank in ranks:
        rank.resume()
    run.wait_until("a step after the stop", lambda: run.step > stopped_at)
    resumed_s = monotonic() - ended
    run.process.wait(timeout=LIMIT_S)
    memory = {
        role: memory_report(role, footprints.between(began - 5.0, began), footprints.between(began, ended), footprints.samples)
        for role in WATCHED
    }
    waiting = {state: status["ledger"][state] for state in ("issued", "leased", "stored", "batched")}
    return {"stopped_at_step": stopped_at, "memory_mib": memory, "waiting": waiting, "next_step_after_s": round(resumed_s, 2)}


def memory_report(
    role: str, before: list[FootprintSample], during: list[FootprintSample], whole: list[FootprintSample]
) -> dict[str, float]:
    """MiB: the largest within 5 s before the stop, during it, and ever; and the growth from its tenth second to its end."""
    settled = [sample for sample in during if sample.at - during[0].at > 10.0] or during
    spans = {"before": before, "during": during, "ever": whole}
    most = {name: max(sample.memory_bytes[role] for sample in samples) / MIB for name, samples in spans.items()}
    growth = (settled[-1].memory_bytes[role] - settled[0].memory_bytes[role]) / MIB
    return {name: round(value, 1) for name, value in {**most, "growth_while_stopped": growth}.items()}


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="prolong bench stalled", description=__doc__)
    parser.add_argument("--stopped-s", type=float, default=60.0)
    parser.add_argument("--at-step", type=int, default=10)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--root", type=Path, default=Path("runs/bench-stalled"))
    parser.add_argument("--json", action="store_true")
    parser.add_argument("overrides", nargs="*")
    args = parser.parse_args(argv)
    with Footprints() as footprints, LiveRun(args.root, "stalled", [f"run.steps={args.steps}", *args.overrides]) as run:
        found = stall(run, footprints, args.at_step, args.stopped_s)
    summary = json.loads(run.paths.summary.read_text())
    ended = {"exit_code": run.process.returncode, "steps": summary["steps"], "staleness_max": summary["staleness_max"]}
    report({"bench": "stalled", "stopped_s": args.stopped_s, **found, **ended}, as_json=args.json)
    return 0

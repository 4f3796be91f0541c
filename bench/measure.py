"""Shared by all benches: run a command, measure its wall and CPU seconds, read the files of a run, compare pairs."""

from __future__ import annotations

import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, time

from ..common.metrics import read_metrics


@dataclass(frozen=True, kw_only=True, slots=True)
class CommandCost:
    """Wall and CPU seconds of a command and of the processes that it started and waited for."""

    wall_s: float
    cpu_s: float
    started_at: float  # seconds since the epoch


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainedRun:
    """The results of one `prolong train`."""

    spent: CommandCost
    steps: list[dict[str, float]]  # metrics.jsonl
    summary: dict
    learner_after_s: float  # from the start of the command to the zero of `wall_s` in the steps

    @property
    def seconds_per_step(self) -> float:
        return seconds_per_step([step["wall_s"] for step in self.steps])


def seconds_per_step(walls: Sequence[float]) -> float:
    """Mean over the steps after the first, which includes the start-up."""
    if len(walls) < 2:
        raise ValueError(f"{len(walls)} steps: a rate needs at least 2")
    return (walls[-1] - walls[0]) / (len(walls) - 1)


def run_command(
    command: Sequence[str], *, timeout_s: float, log: Path, env: dict[str, str] | None = None, cores: set[int] | None = None
) -> CommandCost:
    """Run to the end, on `cores` if given, with output to `log`.

    Raises: RuntimeError with the end of the log when the exit code is not 0.
    """
    if cores:
        command = ["taskset", "-c", ",".join(map(str, sorted(cores))), *command]
    log.parent.mkdir(parents=True, exist_ok=True)
    before, started, started_at = resource.getrusage(resource.RUSAGE_CHILDREN), monotonic(), time()
    with log.open("wb") as sink:
        done = subprocess.run(
            command,
            stdout=sink,
            stderr=subprocess.STDOUT,
            timeout=timeout_s,
            env=None if env is None else os.environ | env,
            check=False,
        )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: exit code {done.returncode}\n{log.read_text(errors='replace')[-3000:]}")
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return CommandCost(wall_s=monotonic() - started, cpu_s=cpu_s, started_at=started_at)


def train_run(
    name: str,
    overrides: Sequence[str],
    *,
    root: Path,
    timeout_s: float = 900.0,
    recipe: str = "demo",
    cores: set[int] | None = None,
) -> TrainedRun:
    """Run `prolong train` in an empty run folder."""
    folder = root / name
    shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, "-m", "prolong.launch.cli", "train", "--recipe", recipe]
    command += [f"run.name={name}", f"run.root={root}", "buffer.address=tcp://127.0.0.1:0", *overrides]
    spent = run_command(command, timeout_s=timeout_s, log=root / f"{name}.log", cores=cores)
    path = folder / "summary.json"
    summary = json.loads(path.read_text())
    learner_after_s = path.stat().st_mtime - summary["wall_s"] - spent.started_at
    steps = read_metrics(folder / "metrics.jsonl")
    return TrainedRun(spent=spent, steps=steps, summary=summary, learner_after_s=learner_after_s)


def median_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    """The median of the paired ratios of all rounds."""
    return statistics.median(a / b for a, b in zip(numerators, denominators, strict=True))


def report(result: dict, *, as_json: bool) -> None:
    """Print the result as one line of JSON, or as a table."""
    if as_json:
        sys.stdout.write(json.dumps(result) + "\n")
        return
    for key, value in result.items():
        shown = format(value, ".4g") if isinstance(value, float) else value
        sys.stdout.write(f"{key:28s} {shown}\n")

"""The cost of durability: whole runs with the journal on disk (`buffer.journal_gb`) and in memory, interleaved (A B A B).

The settings are those of the demo without validation and filters, so that every run does the same work. Steps per second do
not count the first step, which includes the start-up. CPU seconds are those of the buffer, from its start to its last sample.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

from .footprint import Footprints
from .measure import median_ratio, report, train_run

ARMS = {"disk": "64", "memory": "0"}  # GB
SAMPLE_EVERY_S = 0.1


def measure_arm(arm: str, number: int, steps: int, root: Path, overrides: list[str]) -> tuple[float, float]:
    """Steps per second of one run, and the CPU seconds of its buffer."""
    same_work = ["data.heldout=[]", "validation.every=0", "buffer.dynamic_sampling=false", f"run.steps={steps}"]
    settings = [*same_work, f"run.seed={number}", f"buffer.journal_gb={ARMS[arm]}", *overrides]
    with Footprints(SAMPLE_EVERY_S, memory=False) as footprints:
        result = train_run(f"{arm}-{number}", settings, root=root)
    return 1 / result.seconds_per_step, max(sample.cpu_s["buffer"] for sample in footprints.samples)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="prolong bench journal-overhead", description=__doc__)
    parser.add_argument("--rounds", type=int, default=4, help="pairs of runs; each has a seed of its own")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--root", type=Path, default=Path("runs/bench-journal"), help="on the disk that is measured")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("overrides", nargs="*")
    args = parser.parse_args(argv)
    found: dict[str, list[tuple[float, float]]] = {arm: [] for arm in ARMS}
    for number in range(args.rounds):
        for arm in ARMS:
            found[arm].append(measure_arm(arm, number, args.steps, args.root, args.overrides))
    rates = {arm: [rate for rate, _ in runs] for arm, runs in found.items()}
    cpu_s = {arm: [seconds for _, seconds in runs] for arm, runs in found.items()}
    result = {"bench": "journal-overhead", "rounds": args.rounds, "steps": args.steps}
    for arm in ARMS:
        result[f"{arm}_steps_per_s"] = [round(rate, 4) for rate in rates[arm]]
        result[f"{arm}_buffer_cpu_s"] = [round(seconds, 2) for seconds in cpu_s[arm]]
    result["speed_over_memory"] = median_ratio(rates["disk"], rates["memory"])
    result["speed_over_memory_each"] = [round(a / b, 4) for a, b in zip(rates["disk"], rates["memory"], strict=True)]
    result["buffer_cpu_ms_per_step"] = {arm: 1e3 * statistics.median(cpu_s[arm]) / args.steps for arm in ARMS}
    report(result, as_json=args.json)
    return 0

"""The share of verification that overlaps generation in a real run: `prolong train --recipe demo`, with sandboxed programs.

hidden: the share of the time spent waiting for verdicts in which rollouts were generated as well.
verifier_share: seconds spent in verifiers per second of the run, which would be their cost without any overlap.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from .measure import report, train_run

SECONDS = ("busy_s", "idle_s", "weights_s", "verify_s", "verifying_s", "verify_exposed_s")


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="prolong bench overlap", description=__doc__)
    parser.add_argument("overrides", nargs="*", help="settings on top of the recipe, such as verifiers.workers=2")
    parser.add_argument("--recipe", default="demo")
    parser.add_argument("--root", type=Path, default=Path("runs/bench/overlap"))
    parser.add_argument("--json", action="store_true", help="one JSON object on one line")
    args = parser.parse_intermixed_args(argv)
    result = train_run("run", args.overrides, root=args.root, recipe=args.recipe)
    spent = {key: sum(step.get(f"actor/{key}", 0.0) for step in result.steps) for key in SECONDS}
    wall_s = result.steps[-1]["wall_s"]
    figures = {"wall_s": wall_s, "seconds_per_step": result.seconds_per_step, **spent}
    figures["verifier_share"] = spent["verify_s"] / wall_s
    figures["hidden"] = 1.0 - spent["verify_exposed_s"] / spent["verifying_s"]
    report(figures, as_json=args.json)
    return 0

"""The command line of `prolong plan CLUSTER.yaml`; it imports nothing, so that --help is cheap."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..argument_types import at_least, finite_from


def plan_parser() -> argparse.ArgumentParser:
    """Of everything but `prolong plan memory`."""
    parser = argparse.ArgumentParser(
        prog="prolong plan",
        description="simulate a run on the machines that CLUSTER.yaml describes (docs/planning.md); "
        "`prolong plan memory --help`: whether it fits into their memory",
    )
    parser.add_argument("cluster", type=Path, metavar="CLUSTER.yaml", help="pools, learner, lengths: docs/planning.md")
    parser.add_argument("--recipe", default="", help="a name in launch/conf, or a YAML file such as runs/NAME/config.yaml")
    parser.add_argument("--steps", type=at_least(1), default=30, help="learner steps of the run (default: 30)")
    parser.add_argument("--seed", type=at_least(0), default=0, help="of lengths and rewards (default: 0)")
    parser.add_argument(
        "--calibrate", action="append", default=[], metavar="RUN", help="fit CLUSTER.yaml to this run first; may be repeated"
    )
    parser.add_argument(
        "--cores", type=finite_from(0.0), help="of the host that the recorded processes shared; 0: each had its own"
    )
    parser.add_argument("--sweep", default="", metavar="KEY=A..B", help="such as eta=0..16, actors=1,2,4 or sampling.n=8,16")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw the sweep")
    parser.add_argument("--no-search", dest="search", action="store_false", help="do not look for a better split or settings")
    parser.add_argument("--json", action="store_true", help="one JSON object on one line")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="settings of docs/config.md, over the recipe")
    return parser

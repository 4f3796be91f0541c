"""The arguments of `prolong launch`, without what its targets import: --help answers at once."""

from __future__ import annotations

import argparse
from pathlib import Path

SUMMARIES = {
    "slurm": "one sbatch job, and jobs of actors that join",
    "kubernetes": "manifests: StatefulSet, JobSet, Deployments (kubectl applies them)",
    "skypilot": "a job group (sky jobs launch starts it)",
}


def parse_job(argv: list[str], parser: argparse.ArgumentParser) -> argparse.Namespace:
    """What the command line asks for."""
    targets = "; ".join(f"{name}: {summary}" for name, summary in SUMMARIES.items())
    parser.add_argument("target", choices=SUMMARIES, help=targets)
    parser.add_argument("recipe", metavar="RECIPE", help="a name in launch/conf, or a YAML file")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="settings of docs/config.md")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where the files go (default: runs/NAME/launch)")
    parser.add_argument("--dry-run", action="store_true", help="print every file but the secrets, write and start nothing")
    parser.add_argument("--submit", action="store_true", help="also run the commands that start the job")
    parser.add_argument("--learner-nodes", type=int, default=1, metavar="N", help="nodes of the learner, learner_ranks each")
    set_help = "a setting of the scheduler, for one component (buffer, learner, actors or a pool) or for all; docs/launching.md"
    parser.add_argument("--set", action="append", default=[], dest="settings", metavar="[COMPONENT:]KEY=VALUE", help=set_help)
    return parser.parse_intermixed_args(argv)

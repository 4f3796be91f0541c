"""Stands in for `prolong` in a job: writes down where it runs and what it was given, then waits for the end of the run.

The first start of the actor big-0 fails.

python placed_process.py FOLDER ROLE ARGUMENTS...    ->    FOLDER/ROLE-NAME-NODE.json
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path

from prolong.launch.nodes import address_towards, nodes_of_slurm

WAIT_S = 60.0
SCORES = {"sampled": {"by_task": {}, "mean": 0.0}}


def main(folder: Path, role: str, *arguments: str) -> int:
    """The learner ends the run when all others are there."""
    name = arguments[arguments.index("--name") + 1] if "--name" in arguments else role
    node = os.uname().nodename
    nodes = nodes_of_slurm(os.environ) if role == "learner" else None
    seen = {
        "role": role,
        "name": name,
        "node": node,
        "arguments": arguments,
        "gpus": os.environ.get("CUDA_VISIBLE_DEVICES", ""),
        "nodes": asdict(nodes) if nodes is not None else None,
        "towards": address_towards(nodes) if nodes is not None else "",
    }
    failed = folder / "big-0.failed"
    if name == "big-0" and not failed.exists():
        # it is started again, and the others do not notice
        failed.touch()
        return 3
    (folder / f"{role}-{name}-{node}.json").write_text(json.dumps(seen))
    summary, deadline = folder / "run" / "summary.json", time.monotonic() + WAIT_S
    while not summary.exists():
        if (
            nodes is not None
            and nodes.index == 0
            and len(list(folder.glob("*.json"))) == int((folder / "expected").read_text())
        ):
            ended = {"before": SCORES, "after": SCORES, "steps": 100000, "wall_s": 1.0, "ledger": {"trained": 0}}
            summary.write_text(json.dumps(ended))
        if time.monotonic() > deadline:
            return 1
        time.sleep(0.05)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1]), *sys.argv[2:]))

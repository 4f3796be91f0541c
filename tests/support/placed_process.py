"""Stands in for `prolong` in a job: writes down where it runs and what it was given, then waits for the end of the run.

The first start of the actor big-0 fails. The learner ends the run when FOLDER/end exists, and SIGTERM any process.

python placed_process.py FOLDER ROLE ARGUMENTS...    ->    FOLDER/ROLE-NAME-NODE.json, and after SIGTERM .left beside it
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path

from prolong.launch.nodes import address_towards, nodes_of_slurm

WAIT_S = 900.0
SCORES = {"sampled": {"by_task": {}, "mean": 0.0}}


def main(folder: Path, role: str, *arguments: str) -> int:
    """Runs until the run has ended. Returns the exit code."""
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
    report = folder / f"{role}-{name}-{node}.json"

    def leave(_number: int, _frame: object) -> None:
        report.with_suffix(".left").touch()
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, leave)
    report.write_text(json.dumps(seen))
    summary, deadline = folder / "run" / "summary.json", time.monotonic() + WAIT_S
    while not summary.exists():
        if nodes is not None and nodes.index == 0 and (folder / "end").exists():
            ended = {"before": SCORES, "after": SCORES, "steps": 100000, "wall_s": 1.0, "ledger": {"trained": 0}}
            summary.write_text(json.dumps(ended))
        if time.monotonic() > deadline:
            return 1
        time.sleep(0.05)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1]), *sys.argv[2:]))

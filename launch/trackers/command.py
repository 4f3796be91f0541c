"""`prolong track RUN`: send what a run's trackers do not have yet. For a run whose trackers were down, or set later."""

from __future__ import annotations

import sys

from ...common.config.run_files import RunPaths, load_config
from ...common.errors import UserError
from .process import copy_records, progress_path, read_progress
from .services import check_trackers


def track_run(run: RunPaths) -> int:
    """Copy all that metrics.jsonl has now; 0. Raises: UserError."""
    cfg = load_config(run.config)
    if not cfg.trackers:
        raise UserError(f"{run.config} names no trackers: expected trackers: {{wandb: {{project: NAME}}}} or the like there")
    check_trackers(cfg)
    for name in cfg.trackers:
        before = read_progress(progress_path(run, name)).step
        copy_records(run, name, lambda _: False)
        after = read_progress(progress_path(run, name)).step
        sys.stdout.write(f"{name}: steps {before + 1} to {after}\n" if after > before else f"{name}: has all {after} steps\n")
    return 0

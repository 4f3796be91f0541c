"""`prolong export RUN OUT`: the policy of a checkpoint as a folder that transformers and vLLM load."""

from __future__ import annotations

import sys
from pathlib import Path

from ..common.config.run_files import find_checkpoints
from ..common.errors import UserError
from .status import find_run


def export_model(source: str, out: Path, dtype: str) -> int:
    """Write it, and print where. `source`: a run, for its newest checkpoint, or the folder of one checkpoint.

    dtype: of the parameters; empty: that of the run. Raises: UserError.
    """
    checkpoint = _checkpoint_of(source)
    if out.exists():
        raise UserError(f"{out} exists: expected a folder that is not there yet")
    # torch, which the checks above do without
    from ..common.models import DTYPES
    from ..learner.checkpoints.export import export_checkpoint

    if dtype and dtype not in DTYPES:
        raise UserError(f"--dtype {dtype}: expected one of {', '.join(DTYPES)}")
    try:
        export_checkpoint(checkpoint, out, dtype=DTYPES[dtype] if dtype else None)
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error}; is there room, and may this user write there?") from error
    sys.stdout.write(f"{out}: the model of {checkpoint}\n")
    return 0


def _checkpoint_of(source: str) -> Path:
    """The checkpoint that is meant. Raises: UserError."""
    if (Path(source) / "state.json").is_file():
        return Path(source)
    folder = find_run(source).checkpoints
    found = find_checkpoints(folder)
    if not found:
        raise UserError(f"{folder} holds no checkpoint yet: the first one is saved after checkpoint.every steps")
    return list(found.values())[-1]

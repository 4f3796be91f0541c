"""`prolong reset`: ask a living run to reset its reference, as its `reference` section says, whatever its triggers say."""

from __future__ import annotations

import json
import sys

from ..buffer.client.observer import request_reset, request_status
from ..common.errors import BufferUnreachable, UserError
from ..common.messages import Refused
from .status import find_run

ANSWER_TIMEOUT_S = 10.0


def ask_for_reset(name: str, timeout_s: float = ANSWER_TIMEOUT_S) -> int:
    """Hand the request to the run's buffer, and print what becomes of it; 0.

    Raises: UserError (no such run, or it has ended), BufferUnreachable.
    """
    paths = find_run(name)
    if not paths.buffer.exists():
        if paths.summary.exists():
            raise UserError(f"run {paths.folder.name} has ended: there is nothing to reset")
        raise BufferUnreachable(f"run {paths.folder.name} has no living buffer: start it again, then ask for the reset")
    note = json.loads(paths.buffer.read_text())
    address, keys = note["address"], note.get("keys", "")
    run = request_status(address, timeout_s, keys=keys).run
    if run != paths.folder.name:
        raise BufferUnreachable(f"the buffer at {address} is that of run {run}; the one of {paths.folder.name} is gone")
    answer = request_reset(address, timeout_s, keys=keys)
    if isinstance(answer, Refused):
        raise UserError(f"run {run} was not asked to reset: {answer.reason}")
    sys.stdout.write(f"noted: the learner resets when it is given the batch of version {answer.version}\n")
    return 0

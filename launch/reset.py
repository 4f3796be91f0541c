"""`prolong reset`: ask a live run for a reset as its `reference` section describes it, independent of the triggers."""

from __future__ import annotations

import sys

from ..buffer.client.observer import request_reset, request_status
from ..common.errors import BufferUnreachable, UserError
from ..common.messages import Refused
from .status import buffer_note, find_run

ANSWER_TIMEOUT_S = 10.0


def ask_for_reset(name: str, timeout_s: float = ANSWER_TIMEOUT_S) -> int:
    """Send the request to the buffer of the run and print its answer; 0.

    Raises: UserError (no such run, or it has ended), BufferUnreachable.
    """
    paths = find_run(name)
    note = buffer_note(paths)
    if note is None:
        if paths.summary.exists():
            raise UserError(f"run {paths.folder.name} has ended: there is nothing to reset")
        raise BufferUnreachable(f"run {paths.folder.name} has no live buffer: start the run again, then ask for the reset")
    address, keys = note
    run = request_status(address, timeout_s, keys=keys).run
    if run != paths.folder.name:
        raise BufferUnreachable(f"the buffer at {address} belongs to run {run}; that of {paths.folder.name} is gone")
    answer = request_reset(address, timeout_s, keys=keys)
    if isinstance(answer, Refused):
        raise UserError(f"run {run} was not asked to reset: {answer.reason}")
    sys.stdout.write(f"noted: the learner resets with the batch of version {answer.version}\n")
    return 0

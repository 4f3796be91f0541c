"""Why vLLM's engine process did not start: vLLM says "see root cause above", and means the log of that process.

The log is standard error, which processes share. Where it is a file, as under `prolong train`, the cause is read from there; on
a terminal it stands just above the message.
"""

from __future__ import annotations

import os
import re
import stat

READ_BYTES = 1 << 20  # of what was written since the start
# "(EngineCore pid=7) ERROR 11-30 00:40:12 [core.py:1100] " before each line of a traceback
_PREFIX = r"(?:\([^)]*pid=\d+\) )?(?:\w+ [\d-]+ [\d:.]+ \[[^\]]*\] )?"
_TRACEBACK = re.compile(rf"^{_PREFIX}Traceback \(most recent call last\)")
_ERROR = re.compile(rf"^{_PREFIX}((?:\w+\.)*\w*(?:Error|Exception)(?:: .*)?)\s*$")


class StartLog:
    """What is written to standard error from now on."""

    def __init__(self) -> None:
        found = os.fstat(2)
        self._start = found.st_size if stat.S_ISREG(found.st_mode) else None

    def cause(self) -> str:
        """The error of the first traceback, as TYPE: message (those of others follow from it); empty if none is there."""
        if self._start is None:
            return ""
        with open("/proc/self/fd/2", "rb") as log:
            log.seek(self._start)
            return first_error(log.read(READ_BYTES).decode(errors="replace"))


def first_error(log: str) -> str:
    """The last line of the first traceback in `log`, without what vLLM puts before it; empty if there is no traceback."""
    inside = False
    for line in log.splitlines():
        inside = inside or _TRACEBACK.match(line) is not None
        error = _ERROR.match(line) if inside else None
        if error is not None:
            return error[1]
    return ""

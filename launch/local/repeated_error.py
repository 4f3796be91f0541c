"""Recognises, in the log of a process that ended, an error that would only happen again if the process were started again.

Such an error lies in the program, the model or the data: an index out of range, a function that is not implemented. What comes
from outside (a signal, a connection, a disk, memory that is taken) may be over by the next start, and is not recognised here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

_TYPES = (
    r"Arithmetic|Assertion|Attribute|FloatingPoint|Import|Index|Key|Lookup|ModuleNotFound|Name|NotImplemented|Overflow|Recursion|"
    r"Runtime|Syntax|Type|UnboundLocal|Unicode|UnicodeDecode|UnicodeEncode|Validation|Value|ZeroDivision"
)
# what vLLM and torch's ranks put before each line of a traceback
_PREFIX = r"(?:\(\w+ pid=\d+\) \w+ [\d-]+ [\d:]+ \[[^\]]*\] |\[rank\d+\]:\s?)?"
# the last line of a traceback, or the sentence of a command that says which error ended a part of it
_ERROR = re.compile(rf"^(?:{_PREFIX}(?:\w+\.)*|prolong \w+: .*\b)((?:{_TYPES})Error)(?::\s*(.*))?$")
_PLACE = re.compile(rf'^{_PREFIX}\s+File "([^"]+)", line (\d+), in \S+')
# torch and its collectives raise RuntimeError for these too
_FROM_OUTSIDE = re.compile(
    r"connection|socket|peer|timed? ?out|nccl|gloo|broken pipe|out of memory|cuda error|address already|no space", re.IGNORECASE
)
_VARIES = re.compile(r"0x[0-9a-f]+|\d+", re.IGNORECASE)


class ProgramError(NamedTuple):
    """An error in the program, as its log shows it."""

    sentence: str  # TYPE: message
    place: str  # file and line that raised it; empty if the log does not say

    def repeats(self, other: ProgramError | None) -> bool:
        """Whether this is the same error again: numbers in the message (a step, a ticket, an address) may differ."""
        return other is not None and (_alike(self.sentence), self.place) == (_alike(other.sentence), other.place)


def last_error(log: Sequence[str]) -> ProgramError | None:
    """The last error of the program in these lines; None if it ended for another reason."""
    found = place = None
    for line in log:
        raised = _PLACE.search(line)
        if raised is not None:
            place = f"{raised[1]}:{raised[2]}"
        error = _ERROR.search(line)
        if error is not None and not _FROM_OUTSIDE.search(error[2] or ""):
            found = ProgramError(f"{error[1]}: {(error[2] or '').strip()}".rstrip(": "), place or "")
    return found


def _alike(sentence: str) -> str:
    return _VARIES.sub("#", sentence)

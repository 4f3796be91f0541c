"""What `prolong data` prints about many lines: the first of them, and how far it is."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

PROGRESS_EVERY_S = 2.0
BAD_LINES_SHOWN = 20
NUMBERS_SHOWN = 5


def print_bad_lines(title: str, lines: Sequence[str], count: int | None = None) -> None:
    """Write `title` and the first BAD_LINES_SHOWN lines to stderr, and count the others. `count`: of all, if these are not."""
    listed = list(lines[:BAD_LINES_SHOWN])
    if more := (len(lines) if count is None else count) - len(listed):
        listed.append(f"... and {more} more")
    sys.stderr.write("\n  ".join([title, *listed]) + "\n")


def first_numbers(lines: Sequence[int], count: int | None = None) -> str:
    """The first NUMBERS_SHOWN line numbers. `count`: how many there are in all, if these are not all."""
    more = (len(lines) if count is None else count) > NUMBERS_SHOWN
    return ", ".join(map(str, lines[:NUMBERS_SHOWN])) + (", ..." if more else "")


class Progress:
    """Writes a line to stderr every PROGRESS_EVERY_S."""

    def __init__(self) -> None:
        self._last_s = time.monotonic()

    def tell(self, sentence: str) -> None:
        """Write the sentence, if it is time."""
        if time.monotonic() - self._last_s > PROGRESS_EVERY_S:
            self._last_s = time.monotonic()
            sys.stderr.write(f"{sentence}\n")

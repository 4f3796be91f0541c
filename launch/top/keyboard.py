"""Keys of a terminal, one by one and without Enter; elsewhere there are none."""

from __future__ import annotations

import os
import select
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic, sleep

# what arrow keys send -> the letters that mean the same
ARROWS = {"\x1b[A": "k", "\x1b[B": "j"}


class Keyboard:
    """Keys of one file descriptor; None: nobody types."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor

    def keys(self, wait_s: float) -> list[str]:
        """The keys that were pressed; blocks for `wait_s` at most, until the first one."""
        if self._descriptor is None:
            sleep(wait_s)
            return []
        deadline = monotonic() + wait_s
        while (left_s := deadline - monotonic()) > 0:
            if select.select([self._descriptor], [], [], left_s)[0]:
                pressed = os.read(self._descriptor, 64)
                # an end of input is the end of the page too: a terminal that was closed
                return split_keys(pressed.decode(errors="replace")) if pressed else ["q"]
        return []


def split_keys(text: str) -> list[str]:
    """Single keys; of arrows the letters that mean the same, other sequences are dropped."""
    for sequence, letter in ARROWS.items():
        text = text.replace(sequence, letter)
    return [] if text.startswith("\x1b") else list(text)


@contextmanager
def raw_keyboard() -> Iterator[Keyboard]:
    """The keys of standard input, if it is a terminal; its settings come back at the end."""
    if not sys.stdin.isatty():
        yield Keyboard(None)
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor)
        yield Keyboard(descriptor)
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)

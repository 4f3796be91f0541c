"""Whole numbers of a command line that must not be too small, for argparse."""

from __future__ import annotations

import argparse
from collections.abc import Callable


def at_least(least: int) -> Callable[[str], int]:
    """The type of an argument that is a whole number of `least` or more."""

    def read(text: str) -> int:
        number = int(text)
        if number < least:
            raise argparse.ArgumentTypeError(f"{number}: expected {least} or more")
        return number

    read.__name__ = "whole number"  # argparse says "invalid whole number value"
    return read

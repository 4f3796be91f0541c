"""Numbers of a command line that must not be too small, for argparse."""

from __future__ import annotations

import argparse
import math
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


def finite_from(least: float) -> Callable[[str], float]:
    """The type of an argument that is a finite number of `least` or more."""

    def read(text: str) -> float:
        number = float(text)
        if not least <= number < math.inf:
            raise argparse.ArgumentTypeError(f"{text}: expected a finite number, {least:g} or more")
        return number

    read.__name__ = "number"  # argparse says "invalid number value"
    return read

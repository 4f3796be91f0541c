"""Comparisons of three values: True and False are certain, None means that only algebra can tell."""

from __future__ import annotations

from collections.abc import Callable, Iterable

Algebra = Callable[[str, str], bool | None]


def no_algebra(reference: str, answer: str) -> None:
    """An Algebra that never tells: only what is certain is decided."""


def every(verdicts: Iterable[bool | None]) -> bool | None:
    """False if one is False, else None if one is None, else True; stops at the first False."""
    unknown = False
    for verdict in verdicts:
        if verdict is False:
            return False
        unknown = unknown or verdict is None
    return None if unknown else True

"""What test code takes from pytest, for where it runs: raises, approx, parametrize, fixture. See tester.py.

Standard library only, because this runs inside the sandbox.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from types import ModuleType

from .remote import Remote
from .values import Value


class Raises:
    """`with pytest.raises(ValueError, match=...)`."""

    def __init__(self, expected: Value, match: str | None) -> None:
        self.value: BaseException | None = None
        self._expected = expected if isinstance(expected, tuple) else (expected,)
        self._match = match

    def __enter__(self) -> Raises:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> bool:
        assert error is not None, f"nothing was raised; expected {self._expected}"
        self.value = error
        if not any(_is_of(error, one) for one in self._expected):
            return False
        assert self._match is None or re.search(self._match, str(error)), f"raised {error}; expected {self._match}"
        return True


def _is_of(error: BaseException, expected: Value) -> bool:
    if isinstance(expected, Remote):
        return vars(expected)["_path"][-1] in getattr(error, "prolong_names", [])
    return isinstance(error, expected)


def raises(expected: Value, *call: Value, match: str | None = None, **kwargs: Value) -> Value:
    if not call:
        return Raises(expected, match)
    with Raises(expected, match) as found:
        call[0](*call[1:], **kwargs)
    return found


class Approx:
    """A number, or a list or mapping of numbers, that others may be near."""

    def __init__(self, expected: Value, rel: float | None = None, abs: float | None = None, nan_ok: bool = False) -> None:
        self.expected, self.nan_ok = expected, nan_ok
        self.abs = 1e-12 if abs is None else abs
        self.rel = (1e-6 if abs is None else 0.0) if rel is None else rel

    def __eq__(self, other: object) -> bool:
        return self._near(self.expected, other)

    def __hash__(self) -> int:
        return 0

    def _near(self, expected: Value, got: Value) -> bool:
        if isinstance(expected, list | tuple):
            return (
                isinstance(got, list | tuple)
                and len(expected) == len(got)
                and all(self._near(a, b) for a, b in zip(expected, got, strict=True))
            )
        if isinstance(expected, dict):
            same_keys = isinstance(got, dict) and expected.keys() == got.keys()
            return same_keys and all(self._near(value, got[key]) for key, value in expected.items())
        if not isinstance(expected, int | float) or not isinstance(got, int | float) or isinstance(expected, bool):
            return bool(expected == got)
        if self.nan_ok and math.isnan(expected):
            return math.isnan(got)
        allowed = max(self.rel * math.fabs(expected), self.abs)
        return got == expected or math.isclose(got, expected, rel_tol=0.0, abs_tol=allowed)


class Mark:
    """`pytest.mark`: parametrize leaves its cases on the function, any other mark nothing."""

    def parametrize(self, names: Value, cases: Value, **_: Value) -> Callable[[Value], Value]:
        listed = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)

        def mark(function: Value) -> Value:
            rows = [getattr(case, "values", case) for case in cases]
            made = [dict(zip(listed, row if len(listed) > 1 else (row,), strict=True)) for row in rows]
            earlier = getattr(function, "prolong_cases", [{}])
            function.prolong_cases = [one | other for other in made for one in earlier]
            return function

        return mark

    def __getattr__(self, name: str) -> Value:
        return lambda *given, **_: given[0] if len(given) == 1 and callable(given[0]) else lambda function: function


def fixture(*given: Value, **_: Value) -> Value:
    def mark(function: Value) -> Value:
        function.prolong_fixture = True
        return function

    return mark(given[0]) if given and callable(given[0]) else mark


def fail(reason: str = "") -> None:
    raise AssertionError(reason)


def param(*values: Value, **_: Value) -> Value:
    return values if len(values) != 1 else values[0]


def module() -> ModuleType:
    """The module that `import pytest` finds."""
    made = ModuleType("pytest")
    vars(made).update(raises=raises, approx=Approx, mark=Mark(), fixture=fixture, fail=fail, param=param, main=lambda *_: 0)
    return made

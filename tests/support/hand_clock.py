"""A monotonic clock that a test moves."""

from __future__ import annotations

from types import ModuleType

import pytest


class HandClock:
    """Stands at `now` until a test moves it."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now

    @classmethod
    def of(cls, patch: pytest.MonkeyPatch, *modules: ModuleType) -> HandClock:
        """The clock of these modules, which have `monotonic` by name."""
        clock = cls()
        for module in modules:
            patch.setattr(module, "monotonic", clock)
        return clock

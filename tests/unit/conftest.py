"""What holds in every unit test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.own_threads import no_thread_left


@pytest.fixture(autouse=True)
def own_threads_end() -> Iterator[None]:
    with no_thread_left():
        yield

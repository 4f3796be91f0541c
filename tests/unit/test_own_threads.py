"""A unit test that leaves a thread behind is told so, and nobody else is."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.own_threads import no_thread_left


def work(until: threading.Event) -> None:
    assert until.wait(60)


def brief() -> None:
    threading.Event().wait(0.05)


class Worker(threading.Thread):
    def __init__(self, until: threading.Event) -> None:
        super().__init__(name="own worker")
        self.until = until

    def run(self) -> None:
        work(self.until)


@pytest.mark.parametrize("of_a_class", [False, True])
def test_a_thread_that_goes_on_is_named(of_a_class: bool) -> None:
    over = threading.Event()
    thread = Worker(over) if of_a_class else threading.Thread(target=work, args=(over,), name="own worker")
    with pytest.raises(AssertionError, match="the thread own worker goes on"), no_thread_left(0.01):
        thread.start()
    over.set()
    thread.join(60)


def test_threads_that_end_that_were_there_or_that_libraries_keep_are_no_fault() -> None:
    over = threading.Event()
    earlier = threading.Thread(target=work, args=(over,))
    earlier.start()
    with ThreadPoolExecutor(1) as pool:
        with no_thread_left(0.01):
            pool.submit(int).result(60)
        with no_thread_left(60):
            threading.Thread(target=brief).start()
    over.set()
    earlier.join(60)

"""SIGTERM and SIGINT set an event inside the block, or raise; the former handlers come back."""

import signal
import threading

import pytest
from prolong.common.signals import StopRequest, leave_on_signals, stop_on_signals

from tests.support.late_threads import interrupt_start


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_sets_the_event_and_says_what_follows(number, caplog):
    stop, former = threading.Event(), signal.getsignal(number)
    with stop_on_signals(stop, "saving first"):
        assert not stop.is_set()
        signal.raise_signal(number)
        assert stop.is_set()
    assert caplog.messages == [f"{number.name}: saving first"]
    assert signal.getsignal(number) is former


def test_the_former_handlers_come_back_after_an_error():
    former = signal.getsignal(signal.SIGTERM)
    with pytest.raises(RuntimeError), stop_on_signals(threading.Event()):
        raise RuntimeError
    assert signal.getsignal(signal.SIGTERM) is former


def test_work_that_may_be_given_up_ends_at_once_with_the_error_and_the_request_is_kept():
    stop, former, reached = StopRequest(), signal.getsignal(signal.SIGTERM), []

    def work():
        with leave_on_signals(stop, KeyError("given up")):
            reached.append("begun")
            signal.raise_signal(signal.SIGTERM)
            reached.append("went on")

    with stop_on_signals(stop):
        for _ in range(2):
            with pytest.raises(KeyError, match="given up"):
                work()
            assert stop.is_set()
    assert reached == ["begun"]
    assert signal.getsignal(signal.SIGTERM) is former


def test_a_handler_of_any_exception_on_the_way_does_not_keep_the_work_going():
    reached = []

    def work():
        with leave_on_signals(threading.Event(), KeyError("given up")):
            try:
                signal.raise_signal(signal.SIGTERM)
            except Exception:
                reached.append("handled")
            reached.append("went on")

    with pytest.raises(KeyError, match="given up"):
        work()
    assert not reached


def test_a_thread_that_starts_meanwhile_runs(monkeypatch):
    """`Thread.start` takes an Exception for a failed start, and the thread that runs then dies of it."""
    begins, ran = threading.Event(), threading.Event()

    def work():
        with leave_on_signals(threading.Event(), KeyError("given up")):
            interrupt_start(monkeypatch, begins, lambda: signal.raise_signal(signal.SIGTERM))
            threading.Thread(target=ran.set).start()

    with pytest.raises(KeyError, match="given up"):
        work()
    begins.set()
    assert ran.wait(20)

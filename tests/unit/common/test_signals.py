"""SIGTERM and SIGINT set an event inside the block; the former handlers come back."""

import signal
import threading

import pytest
from prolong.common.signals import stop_on_signals


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

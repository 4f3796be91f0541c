"""Questions without a Hello: answered by a scripted buffer, or refused with a sentence."""

import contextlib
import threading
from collections.abc import Iterator

import pytest
import zmq
from prolong.buffer.client.observer import Observer, request_reset, request_status
from prolong.common.errors import BufferUnreachable, ConfigError
from prolong.common.messages import FromClient, Refused, RequestReset, ResetNoted, Status, StatusRequest, Tickets
from prolong.common.transport.sockets import bind_router, endpoint_of
from prolong.common.transport.wire import Decoder, encode

LIMIT = 1 << 20
SOON_S = 60.0  # what is waited for happens at once, unless the machine is busy
STATUS = Status(run="r", generation=3, version=9, steps=9, ledger={}, balanced=True, peers={}, counters={}, validation=[])


class Answering(threading.Thread):
    """Answers each frame with `before` (frames that no one asked for) and then with STATUS, or a refusal of a reset."""

    def __init__(self, *before: bytes) -> None:
        super().__init__(daemon=True)
        self.context = zmq.Context()
        self.router = bind_router(self.context, "tcp://127.0.0.1:0", LIMIT)
        self.address = endpoint_of(self.router)
        self.before = before
        self.asked: list[FromClient] = []
        self.stopping = threading.Event()
        self.start()

    def run(self) -> None:
        decoder = Decoder[FromClient](FromClient, LIMIT)
        while not self.stopping.is_set():
            if not self.router.poll(5):
                continue
            peer, frame = self.router.recv_multipart()
            self.asked.append(decoder.decode(frame))
            answer = Refused(reason="the run has ended") if isinstance(self.asked[-1], RequestReset) else STATUS
            with contextlib.suppress(zmq.ZMQError):  # the observer has left
                for reply in (*self.before, encode(answer)):
                    self.router.send_multipart((peer, reply))
        self.router.close(linger=0)
        self.context.term()


@pytest.fixture
def buffer() -> Iterator[Answering]:
    answering = Answering(b"garbage", encode(Tickets(tickets=[])), encode(ResetNoted(version=1))[:-1])
    yield answering
    answering.stopping.set()
    answering.join(SOON_S)


def test_the_first_answer_of_the_questions_class_is_returned(buffer: Answering) -> None:
    assert request_status(buffer.address, SOON_S) == STATUS
    assert request_reset(buffer.address, SOON_S) == Refused(reason="the run has ended")
    assert buffer.asked == [StatusRequest(), RequestReset()]


def test_polling_asks_for_the_next_status_whenever_one_has_arrived(buffer: Answering) -> None:
    with Observer.open(buffer.address) as observer:
        assert observer.poll_status() is None
        waiting = threading.Event()
        for num_asked in (1, 2, 3):
            while observer.poll_status() is None:
                waiting.wait(0.001)
            assert len(buffer.asked) >= num_asked


def test_a_buffer_that_is_not_there_is_named_with_the_question() -> None:
    with Observer.open("tcp://127.0.0.1:9") as observer:
        with pytest.raises(BufferUnreachable, match=r"no answer to a StatusRequest from a buffer at tcp://127.0.0.1:9"):
            observer.ask(StatusRequest(), 0.1)
        assert observer.poll_status() is None


def test_an_unusable_address_is_refused_at_once() -> None:
    with pytest.raises(ConfigError, match=r"expected tcp://HOST:PORT"):
        Observer.open("nonsense")

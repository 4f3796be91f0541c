"""The client over real sockets against a scripted buffer: threads, event loops, deadlines, restarts, closing."""

import asyncio
import contextlib
import os
import threading
from collections import Counter, deque
from collections.abc import Callable
from time import monotonic

import pytest
import zmq
from prolong.buffer.client.client import BufferClient
from prolong.buffer.client.observer import request_status
from prolong.common.errors import BufferUnreachable, ConfigError, DeadlineExceeded, HandshakeRefused, RunStopped, WireSizeError
from prolong.common.messages import (
    Alive,
    BatchReady,
    FromClient,
    GroupAck,
    GroupResult,
    Heartbeat,
    Hello,
    Refused,
    Role,
    Stop,
    SyncRequested,
    TakeBatch,
    TicketReturned,
    Tickets,
    Welcome,
)
from prolong.common.transport.sockets import bind_router, endpoint_of
from prolong.common.transport.wire import Decoder, encode
from prolong.common.types import Batch, Group, Prompt, Sampling, TicketKind, ValidationSetting

from tests.support.late_threads import interrupt_start
from tests.support.runs import free_port

LIMIT = 1 << 20
SOON_S = 60.0  # what is waited for happens at once, unless the machine is busy
SAMPLING = Sampling(n=2, temperature=1.0, top_p=1.0, max_tokens=8)
PROMPT = Prompt(uid="u", domain="d", task="t", text="x", token_ids=b"\1\0\0\0", verifier="v")


def group_result(ordinal: int) -> GroupResult:
    group = Group(
        ordinal=ordinal, kind=TicketKind.train, generation=1, prompt=PROMPT, setting=ValidationSetting.none,
        sampling=SAMPLING, rollouts=[], actor="a", seconds=1.0,
    )  # fmt: skip
    return GroupResult(group=group)


class ScriptedBuffer(threading.Thread):
    """Admits every client, echoes TicketReturned as SyncRequested, acknowledges groups, answers TakeBatch with an empty batch
    unless `starve`; says nothing at all while `silent`. A busy machine may keep it waiting for seconds: the lease is longer."""

    def __init__(
        self,
        address: str = "tcp://127.0.0.1:0",
        *,
        ack: bool = True,
        starve: bool = False,
        refuse: str = "",
        generation: int = 1,
        heartbeat_s: float = 0.05,
        lease_s: float = 60.0,
    ) -> None:
        super().__init__(daemon=True)
        self.context = zmq.Context()
        self.router = bind_router(self.context, address, LIMIT)
        self.address = endpoint_of(self.router)
        self.silent, self.ack, self.starve, self.refuse = False, ack, starve, refuse
        self.welcome = Welcome(generation=generation, heartbeat_s=heartbeat_s, lease_s=lease_s, version=0)
        self.heard: list = []
        self.known: set[bytes] = set()
        self.outbox: list[bytes] = []  # frames for everybody who is known
        self.stopping = threading.Event()
        self.start()

    def run(self) -> None:
        decoder: Decoder = Decoder(FromClient, LIMIT)
        while not self.stopping.is_set():
            while self.outbox:
                frame = self.outbox.pop(0)
                for peer in self.known:
                    self.router.send_multipart((peer, frame))
            if not self.router.poll(5):
                continue
            peer, frame = self.router.recv_multipart()
            message = decoder.decode(frame)
            self.heard.append(message)
            reply = None if self.silent else self.reply(peer, message)
            if reply is not None:
                with contextlib.suppress(zmq.ZMQError):  # the client left with its last message
                    self.router.send_multipart((peer, encode(reply)))
        self.router.close(linger=500)
        self.context.term()

    def reply(self, peer: bytes, message):
        if isinstance(message, Hello):
            if self.refuse:
                return Refused(reason=self.refuse, retry=True)
            self.known.add(peer)
            return self.welcome
        if peer not in self.known:
            return Alive(known=False)
        match message:
            case Heartbeat():
                return Alive(known=True)
            case GroupResult() if self.ack:
                return GroupAck(ordinal=message.group.ordinal, accepted=True)
            case TakeBatch() if not self.starve:
                return BatchReady(batch=Batch(generation=message.generation, version=message.version, groups=[]))
            case TicketReturned():
                return SyncRequested(reason=str(message.ordinal))
        return None

    def of(self, kind: type) -> list:
        return [message for message in self.heard if isinstance(message, kind)]

    def admitted(self, kind: type) -> list:
        """Those that came behind a Hello. A frame that was under way when the buffer before died may come in front of it."""
        heard = list(self.heard)
        first = next((at for at, message in enumerate(heard) if isinstance(message, Hello)), len(heard))
        return [message for message in heard[first:] if isinstance(message, kind)]

    def __enter__(self) -> "ScriptedBuffer":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self.stopping.set()
        self.join(SOON_S)
        assert not self.is_alive()


@pytest.fixture
def buffer():
    scripted = ScriptedBuffer()
    yield scripted
    scripted.stop()


def client_of(address: str) -> BufferClient:
    hello = Hello(role=Role.actor, name="actor-0", protocol=1, tokenizer="t", host="h", pid=os.getpid())
    return BufferClient(address, hello, max_bytes=LIMIT)


def until(condition: Callable[[], bool], timeout_s: float = SOON_S, *, busy: bool = False) -> None:
    """Wait for an event; `busy` keeps this thread computing meanwhile."""
    deadline = monotonic() + timeout_s
    waiting = threading.Event()
    while not condition():
        assert monotonic() < deadline, "it did not happen"
        if busy:
            sum(range(1000))
        else:
            waiting.wait(0.005)


def ask(client: BufferClient, inbox, ordinal: int, timeout_s: float = SOON_S) -> int:
    client.send(TicketReturned(ordinal=ordinal, reason=""))
    return int(inbox.take(timeout_s).reason)


def test_a_message_wakes_the_io_thread_instead_of_waiting_for_the_next_heartbeat():
    buffer = ScriptedBuffer(heartbeat_s=3600.0, lease_s=3600.0)
    with client_of(buffer.address) as client:
        inbox = client.inbox(SyncRequested)
        assert client.connect(SOON_S).generation == 1
        for ordinal in range(100):
            assert ask(client, inbox, ordinal) == ordinal
    assert buffer.of(Heartbeat) == []
    buffer.stop()


def test_nothing_is_lost_when_many_threads_send(buffer):
    with client_of(buffer.address) as client:
        inbox = client.inbox(SyncRequested)
        client.connect(SOON_S)

        def send(first: int) -> None:
            for ordinal in range(first, first + 200):
                client.send(TicketReturned(ordinal=ordinal, reason=""))

        threads = [threading.Thread(target=send, args=(1000 * index,)) for index in range(8)]
        for thread in threads:
            thread.start()
        got = [int(inbox.take(SOON_S).reason) for _ in range(1600)]
    assert sorted(got) == sorted(1000 * index + i for index in range(8) for i in range(200))
    assert [g for g in got if g < 1000] == list(range(200))


def test_each_type_waits_in_its_own_inbox(buffer):
    with client_of(buffer.address) as client:
        tickets, syncs = client.inbox(Tickets), client.inbox(SyncRequested)
        client.connect(SOON_S)
        buffer.outbox.append(encode(Tickets(tickets=[])))
        assert ask(client, syncs, 7) == 7
        assert tickets.take(SOON_S) == Tickets(tickets=[])
        assert tickets.try_take() is None
        assert syncs.try_take() is None


def test_a_deadline_names_what_did_not_come(buffer):
    with client_of(buffer.address) as client:
        inbox = client.inbox(Tickets, SyncRequested)
        client.connect(SOON_S)
        with pytest.raises(DeadlineExceeded, match=r"no Tickets or SyncRequested from the buffer within 0.05 s"):
            inbox.take(0.05)
        assert inbox.take_within(0.01) is None


def test_an_event_loop_waits_without_blocking_and_cancelling_loses_nothing(buffer):
    async def talk(client, inbox) -> list[int]:
        with pytest.raises(DeadlineExceeded):
            await inbox.take_async(0.02)
        impatient = asyncio.create_task(inbox.take_async(SOON_S))
        await asyncio.sleep(0)
        impatient.cancel()
        with pytest.raises(asyncio.CancelledError):
            await impatient
        got = []
        for ordinal in range(50):
            client.send(TicketReturned(ordinal=ordinal, reason=""))
            got.append(int((await inbox.take_async(SOON_S)).reason))
        client.send(TicketReturned(ordinal=98, reason=""))
        client.send(TicketReturned(ordinal=99, reason=""))
        pair = await asyncio.gather(inbox.take_async(SOON_S), inbox.take_async(SOON_S))
        return got + sorted(int(message.reason) for message in pair)

    with client_of(buffer.address) as client:
        inbox = client.inbox(SyncRequested)
        client.connect(SOON_S)
        assert asyncio.run(talk(client, inbox)) == [*range(50), 98, 99]


def test_stop_ends_every_inbox_after_what_came_before(buffer):
    with client_of(buffer.address) as client:
        tickets, syncs = client.inbox(Tickets), client.inbox(SyncRequested)
        client.connect(SOON_S)
        buffer.outbox += [encode(Tickets(tickets=[])), encode(Stop(reason="out of disk", failed=True))]
        assert tickets.take(SOON_S) == Tickets(tickets=[])
        for _ in range(2):
            with pytest.raises(RunStopped, match="out of disk") as raised:
                tickets.take(SOON_S)
            assert raised.value.exit_code == 1
        with pytest.raises(RunStopped):
            syncs.try_take()
        with pytest.raises(RunStopped):
            asyncio.run(syncs.take_async(SOON_S))


def test_unacknowledged_groups_are_sent_again_to_a_restarted_buffer():
    first = ScriptedBuffer(f"tcp://127.0.0.1:{free_port()}", ack=False)
    client = client_of(first.address)
    inbox = client.inbox(SyncRequested)
    client.connect(SOON_S)
    for ordinal in range(20):
        client.send(group_result(ordinal))
    until(lambda: len(first.of(GroupResult)) == 20)
    first.stop()
    client.send(group_result(20))
    second = ScriptedBuffer(first.address)
    until(lambda: len(second.admitted(GroupResult)) == 21)
    assert Counter(m.group.ordinal for m in second.admitted(GroupResult)) == Counter(range(21))
    assert second.of(Hello)[0].name == "actor-0"
    assert ask(client, inbox, 5) == 5
    client.close()
    second.stop()


def test_a_silent_buffer_becomes_unreachable_in_every_inbox():
    with ScriptedBuffer(lease_s=0.15) as buffer, client_of(buffer.address) as client:
        inbox = client.inbox(SyncRequested)
        client.connect(SOON_S)
        buffer.silent = True
        with pytest.raises(BufferUnreachable, match=r"within 0.9 s"):
            inbox.take(SOON_S)
        client.send(TicketReturned(ordinal=1, reason="too late"))
        assert client.counters["client/dropped_messages"] >= 1


def test_a_short_silence_is_forgiven():
    with ScriptedBuffer(lease_s=0.5) as buffer, client_of(buffer.address) as client:
        inbox = client.inbox(SyncRequested)
        client.connect(SOON_S)
        buffer.silent = True
        until(lambda: len(buffer.of(Hello)) == 2)
        buffer.silent = False
        buffer.outbox.append(encode(buffer.welcome))
        assert ask(client, inbox, 3) == 3


def test_an_address_without_a_buffer_is_named():
    client = client_of("tcp://127.0.0.1:9")
    with pytest.raises(BufferUnreachable, match=r"tcp://127.0.0.1:9 within 0.2 s; is `prolong buffer` running"):
        client.connect(0.2)
    with pytest.raises(BufferUnreachable, match=r"no answer to a StatusRequest from a buffer at tcp://127.0.0.1:9"):
        request_status("tcp://127.0.0.1:9", 0.1)
    with pytest.raises(ConfigError, match=r"expected tcp://HOST:PORT"):
        client_of("nonsense").connect(0.2)


def test_a_client_may_come_before_the_buffer():
    address = f"tcp://127.0.0.1:{free_port()}"
    client = client_of(address)
    inbox = client.inbox(SyncRequested)
    connecting = threading.Thread(target=client.connect, args=(SOON_S,))
    connecting.start()
    late = ScriptedBuffer(address)
    connecting.join(SOON_S)
    assert ask(client, inbox, 1) == 1
    client.close()
    late.stop()


def test_a_client_that_is_refused_for_now_asks_again_until_it_is_admitted():
    buffer = ScriptedBuffer(refuse="a learner lives")
    with pytest.raises(HandshakeRefused, match="a learner lives"):
        client_of(buffer.address).connect(2.0)
    client = client_of(buffer.address)
    connecting = threading.Thread(target=client.connect, args=(SOON_S,))
    connecting.start()
    until(lambda: len(buffer.of(Hello)) >= 4)
    buffer.refuse = ""
    connecting.join(SOON_S)
    assert not connecting.is_alive()
    client.close()
    buffer.stop()


def test_close_sends_what_is_queued_and_waits_for_acknowledgements(buffer):
    client = client_of(buffer.address)
    client.connect(SOON_S)
    for ordinal in range(500):
        client.send(group_result(ordinal))
    client.close(SOON_S)
    assert len(buffer.of(GroupResult)) == 500
    client.send(group_result(1))
    assert client.counters["client/dropped_messages"] == 1


def test_a_thread_that_sends_while_another_closes_sees_no_error(buffer):
    client = client_of(buffer.address)
    client.connect(5.0)

    class Queue(deque):
        def append(self, item):
            super().append(item)
            client.close()

    client._queue = Queue()
    client.send(group_result(1))
    assert not client.is_running
    assert len(buffer.of(GroupResult)) == 1


def test_close_does_not_wait_longer_than_it_is_told():
    buffer = ScriptedBuffer(ack=False)
    client = client_of(buffer.address)
    client.connect(SOON_S)
    client.send(group_result(1))
    until(lambda: len(buffer.of(GroupResult)) == 1)
    client.close(timeout_s=0.2)  # the acknowledgement never comes, and the I/O thread ends nevertheless
    assert not client.is_running
    buffer.stop()


def test_heartbeats_go_on_while_the_main_thread_is_busy(buffer):
    with client_of(buffer.address) as client:
        client.connect(SOON_S)
        client.set_stats({"actor/tokens": 3.0}, room=8)
        until(lambda: len(buffer.of(Heartbeat)) >= 3, busy=True)
        beats = buffer.of(Heartbeat)
        assert beats[-1].stats == {"actor/tokens": 3.0}
        assert beats[-1].room == 8


def test_a_message_over_the_limit_is_refused_where_it_is_sent(buffer):
    with client_of(buffer.address) as client:
        client.connect(SOON_S)
        with pytest.raises(WireSizeError, match=r"TicketReturned of \d+ bytes: .* raise buffer.max_message_mb"):
            client.send(TicketReturned(ordinal=1, reason="x" * LIMIT))


def test_damaged_frames_are_counted_and_the_conversation_goes_on(buffer):
    with client_of(buffer.address) as client:
        inbox = client.inbox(SyncRequested)
        client.connect(SOON_S)
        buffer.outbox += [b"garbage", encode(Tickets(tickets=[]))[:-1], encode(Tickets(tickets=[]))]
        assert ask(client, inbox, 1) == 1
        until(lambda: client.counters["client/unrouted_messages"] == 1)
        assert client.counters["client/rejected_frames"] == 2


def learner_of(address: str) -> BufferClient:
    hello = Hello(role=Role.learner, name="learner", protocol=1, tokenizer="t", host="h", pid=os.getpid(), version=7)
    return BufferClient(address, hello, max_bytes=LIMIT)


def take_batch(generation: int) -> TakeBatch:
    return TakeBatch(generation=generation, version=7)


def test_an_answer_to_a_question_is_returned_with_its_type(buffer):
    with learner_of(buffer.address) as client:
        batches = client.inbox(BatchReady)
        client.connect(SOON_S)
        for _ in range(2):
            ready = client.ask(batches, take_batch, deadline_s=SOON_S, stop=threading.Event())
            assert ready is not None
            assert (ready.batch.generation, ready.batch.version) == (1, 7)


def test_a_question_is_asked_again_in_another_generation_and_answers_of_an_earlier_one_are_ignored():
    first = ScriptedBuffer(f"tcp://127.0.0.1:{free_port()}", starve=True)
    client = learner_of(first.address)
    batches = client.inbox(BatchReady)
    client.connect(SOON_S)
    answers: list[BatchReady | None] = []
    stop = threading.Event()
    asking = threading.Thread(target=lambda: answers.append(client.ask(batches, take_batch, deadline_s=SOON_S, stop=stop)))
    asking.start()
    until(lambda: len(first.of(TakeBatch)) == 1)
    first.stop()
    second = ScriptedBuffer(first.address, generation=2)  # it answers the question of generation 1 too, which is sent again
    asking.join(SOON_S)
    assert answers == [BatchReady(batch=Batch(generation=2, version=7, groups=[]))]
    assert [message.generation for message in second.of(TakeBatch)] == [1, 2]
    client.close()
    second.stop()


def test_a_question_ends_at_its_deadline_or_when_told_to_stop():
    buffer, stop = ScriptedBuffer(starve=True), threading.Event()
    with learner_of(buffer.address) as client:
        batches = client.inbox(BatchReady)
        client.connect(SOON_S)
        with pytest.raises(DeadlineExceeded, match=r"did not answer within 0.01 s"):
            client.ask(batches, take_batch, deadline_s=0.01, stop=stop)
        stop.set()
        assert client.ask(batches, take_batch, deadline_s=SOON_S, stop=stop) is None
        buffer.outbox.append(encode(Stop(reason="out of disk", failed=True)))
        with pytest.raises(RunStopped, match="out of disk"):
            client.ask(batches, take_batch, deadline_s=SOON_S, stop=threading.Event())
    buffer.stop()


def test_connecting_ends_when_told_to_stop():
    client, stop = client_of("tcp://127.0.0.1:9"), threading.Event()
    stop.set()
    with pytest.raises(RunStopped, match="told to stop before the buffer answered"):
        client.connect(3600.0, stop)
    assert not client.is_running


def interrupted() -> None:
    raise KeyboardInterrupt


def test_a_client_whose_connecting_was_interrupted_before_its_thread_ran_can_be_closed(buffer, monkeypatch):
    closing, client = threading.Event(), learner_of(buffer.address)
    wake = client._wake
    interrupt_start(monkeypatch, closing, interrupted)
    with pytest.raises(KeyboardInterrupt):
        client.connect(5.0)
    monkeypatch.setattr(client, "_wake", lambda: (wake(), closing.set()))
    client.close()
    assert not client.is_running


def test_the_log_names_the_address_that_is_tried(monkeypatch, caplog):
    monkeypatch.setattr("prolong.buffer.client.client.SAID_S", 0.0)
    stop = threading.Event()
    monkeypatch.setattr(stop, "is_set", lambda: bool(caplog.messages))
    with caplog.at_level("INFO"), pytest.raises(RunStopped):
        client_of("tcp://127.0.0.1:9").connect(600.0, stop)
    assert caplog.messages == ["waiting for a buffer at tcp://127.0.0.1:9, 600 s at most"]

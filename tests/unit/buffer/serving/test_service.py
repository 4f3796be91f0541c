"""The socket loop around a scripted core: every client is told of a failure, and frames that cannot be sent are counted."""

import os
import queue
import threading
from collections import Counter
from time import monotonic

import pytest
import zmq
from prolong.buffer.client.client import BufferClient
from prolong.buffer.serving.output_commit import Outgoing
from prolong.buffer.serving.service import TICK_S, BufferService
from prolong.common.errors import LedgerError, RunStopped, WireSizeError
from prolong.common.messages import FromBuffer, FromClient, Hello, Leave, Role, Status, Stop, TicketReturned, Welcome
from prolong.common.transport.gate import Gate
from prolong.common.transport.sockets import bind_router, endpoint_of

LIMIT = 1 << 16
SOON_S = 60.0  # what is waited for happens at once, unless the machine is busy


class ScriptedCore:
    """Welcomes every client; a TicketReturned makes it do what the reason says."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.admitted: queue.Queue[list[str]] = queue.Queue()
        self.peers: set[bytes] = set()
        self.ticks = 0
        self.ten_ticks = threading.Event()
        self.over = False
        self.reasons: list[str] = []
        self.greeted_again = threading.Event()

    def handle(self, peer: bytes, message: FromClient, now: float, frame: bytes = b"") -> list[Outgoing]:
        if isinstance(message, Hello):
            if peer in self.peers:
                self.greeted_again.set()
            self.peers.add(peer)
            return [(peer, Welcome(generation=1, heartbeat_s=5.0, lease_s=10.0, version=0))]
        if isinstance(message, TicketReturned):
            self.reasons.append(message.reason)
        match message.reason if isinstance(message, TicketReturned | Leave) else "":
            case "fail":
                raise LedgerError("ticket 7 is nowhere")
            case "bug":
                raise KeyError(7)
            case "large":
                return [(peer, Stop(reason="x" * LIMIT))]
            case "ghost":
                return [(b"nobody", Stop(reason="boo"))]
            case "over":
                self.over = True
        return []

    def tick(self, now: float) -> list[Outgoing]:
        self.ticks += 1
        if self.ticks == 10:
            self.ten_ticks.set()
        return []

    def commit(self) -> None:
        return None

    def may_leave(self, message: FromBuffer) -> bool:
        return True

    def finished(self) -> bool:
        return self.over

    def stop(self, reason: str, *, failed: bool) -> list[Outgoing]:
        return [(peer, Stop(reason=reason, failed=failed)) for peer in self.peers]

    def count(self, name: str, amount: int = 1) -> None:
        self.counts[name] += amount

    def admit_keys(self, keys: list[str]) -> None:
        self.admitted.put(keys)


class Served:
    """A service in a thread, and one connected client with an inbox for Status."""

    def __init__(self) -> None:
        self.core = ScriptedCore()
        self.raised: Exception | None = None
        self.context = zmq.Context()
        self.router = bind_router(self.context, "tcp://127.0.0.1:0", LIMIT)
        self.service = BufferService(self.core, self.router, LIMIT)
        self.thread = threading.Thread(target=self._run)
        self.thread.start()
        hello = Hello(role=Role.actor, name="a", protocol=1, tokenizer="t", host="h", pid=os.getpid())
        self.client = BufferClient(endpoint_of(self.router), hello, max_bytes=1 << 20)
        self.inbox = self.client.inbox(Status)
        self.client.connect(SOON_S)

    def _run(self) -> None:
        try:
            self.service.run()
        except Exception as error:
            self.raised = error
        self.router.close(linger=500)

    def say(self, reason: str) -> None:
        self.client.send(TicketReturned(ordinal=1, reason=reason))

    def close(self) -> None:
        self.service.stop.set()
        self.thread.join(SOON_S)
        self.client.close()
        self.context.term()


@pytest.fixture
def served():
    served = Served()
    yield served
    served.close()


@pytest.mark.parametrize(
    ("reason", "kind", "said"),
    [
        ("fail", LedgerError, "the buffer failed: ticket 7 is nowhere"),
        ("bug", KeyError, "the buffer failed: 7"),
        ("large", WireSizeError, "Stop of .* raise buffer.max_message_mb on every process"),
    ],
)
def test_every_client_is_told_of_a_failure_and_it_is_raised(served, reason, kind, said):
    served.say(reason)
    with pytest.raises(RunStopped, match=said) as stopped:
        served.inbox.take(SOON_S)
    assert stopped.value.exit_code == 1
    served.thread.join(SOON_S)
    assert isinstance(served.raised, kind)


def test_a_stop_is_told_as_no_failure(served):
    served.service.stop.set()
    with pytest.raises(RunStopped, match="told to stop") as stopped:
        served.inbox.take(SOON_S)
    assert stopped.value.exit_code == 0
    assert served.raised is None


def test_a_finished_core_ends_the_loop(served):
    served.say("over")
    served.thread.join(SOON_S)
    assert not served.thread.is_alive()
    assert served.raised is None


def test_a_message_for_an_unknown_client_is_counted(served):
    served.say("ghost")
    served.say("over")
    served.thread.join(SOON_S)
    assert served.core.counts == {"buffer/unreachable_peers": 1}


def test_the_core_ticks_while_no_client_speaks_and_not_faster(served):
    started = monotonic()
    ticks = served.core.ticks
    served.core.ten_ticks.wait(SOON_S)
    assert served.core.ten_ticks.is_set()
    # heartbeats and the end of the handshake cause a few turns of the loop as well
    assert served.core.ticks - ticks <= (monotonic() - started) / TICK_S + 4


def test_a_frame_over_the_limit_costs_its_sender_the_connection_and_no_other_client_anything(served):
    served.client.send(TicketReturned(ordinal=1, reason="y" * (LIMIT + 1)))
    assert served.core.greeted_again.wait(SOON_S)
    served.say("over")
    served.thread.join(SOON_S)
    assert not served.thread.is_alive()
    assert served.core.reasons == ["over"]


def test_the_core_hears_which_keys_are_admitted_and_of_every_change() -> None:
    context, core = zmq.Context(), ScriptedCore()
    names = {b"b" * 40: "gpu-1"}
    gate = Gate(context, lambda: names)
    router = bind_router(context, "tcp://127.0.0.1:0", LIMIT)
    service = BufferService(core, router, LIMIT, gate=gate)
    thread = threading.Thread(target=service.run)
    thread.start()
    try:
        assert core.admitted.get(timeout=SOON_S) == ["b" * 40]
        names[b"c" * 40] = "gpu-2"
        assert core.admitted.get(timeout=SOON_S) == ["b" * 40, "c" * 40]
    finally:
        service.stop.set()
        thread.join(SOON_S)
        router.close(linger=0)
        gate.close()
        context.term()
    assert core.admitted.empty(), "it is said once"

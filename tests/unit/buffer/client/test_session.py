"""The client's protocol without socket or clock: which messages it sends when, which it repeats, and when it gives up."""

from collections import Counter

import msgspec
import pytest
from prolong.buffer.client.session import FAR_SILENCES, SILENCES, Session
from prolong.common.errors import BufferUnreachable, HandshakeRefused, RunStopped
from prolong.common.messages import (
    Alive,
    BatchReady,
    Finish,
    Finished,
    FromClient,
    GroupAck,
    GroupResult,
    Heartbeat,
    Hello,
    Publish,
    PublishPlan,
    Refused,
    Role,
    Status,
    StepDone,
    Stop,
    TakeBatch,
    TicketReturned,
    Tickets,
    WeightsApplied,
    Welcome,
)
from prolong.common.transport.wire import Decoder, encode
from prolong.common.types import PULL, Batch, Group, Manifest, Prompt, Rendezvous, Sampling, TicketKind, ValidationSetting

HELLO = Hello(role=Role.learner, name="learner", protocol=1, tokenizer="t", host="h", pid=1, version=0)
WELCOME = Welcome(generation=3, heartbeat_s=0.5, lease_s=10.0, version=0)
SAMPLING = Sampling(n=2, temperature=1.0, top_p=1.0, max_tokens=8)
PROMPT = Prompt(uid="u", domain="d", task="t", text="x", token_ids=b"\1\0\0\0", verifier="v")
TAKE = TakeBatch(generation=3, version=0)
PUBLISH = Publish(
    generation=3, version=0, rendezvous=Rendezvous(transport="collective", address=b""), manifest=Manifest(buckets=[])
)
FINISH = Finish(generation=3, version=9)
STATUS = Status(run="r", generation=3, version=9, steps=9, ledger={}, balanced=True, peers={}, counters={}, validation=[])


def group_result(ordinal: int) -> GroupResult:
    group = Group(
        ordinal=ordinal, kind=TicketKind.train, generation=3, prompt=PROMPT, setting=ValidationSetting.none,
        sampling=SAMPLING, rollouts=[], actor="a", seconds=1.0,
    )  # fmt: skip
    return GroupResult(group=group)


class Talk:
    """A session, its time, and what it said."""

    def __init__(self, hello: Hello = HELLO, timeout_s: float = 5.0) -> None:
        self.now = 100.0
        self.session = Session(hello, "tcp://there:1", self.now, timeout_s, Counter())
        self._decoder: Decoder = Decoder(FromClient, 1 << 20)

    def said(self) -> list:
        """Tick, and everything that leaves."""
        self.session.tick(self.now)
        messages = [self._decoder.decode(frame) for _, frame in self.session.out]
        self.session.out.clear()
        return messages

    def later(self, seconds: float) -> list:
        self.now += seconds
        return self.said()

    def hears(self, message):
        return self.session.receive(message, self.now)

    def submit(self, *messages) -> None:
        for message in messages:
            self.session.submit(message, encode(message))

    def up(self) -> "Talk":
        """Through the handshake."""
        self.session.connected(self.now)
        assert self.said() == [self.session.hello]
        self.hears(WELCOME)
        return self


def test_hello_waits_for_a_connection_and_leaves_once_per_connection():
    talk = Talk(timeout_s=60.0)
    assert talk.said() == []
    assert talk.later(3.0) == []
    talk.session.connected(talk.now)
    assert talk.said() == [HELLO]
    assert talk.later(20.0) == []
    talk.session.disconnected()
    talk.session.connected(talk.now)
    assert talk.said() == [HELLO]


def test_what_is_submitted_before_the_welcome_follows_it_in_order():
    talk = Talk()
    talk.submit(TAKE, TicketReturned(ordinal=1, reason="x"))
    talk.session.connected(talk.now)
    assert talk.said() == [HELLO]
    talk.hears(WELCOME)
    assert talk.said() == [TAKE, TicketReturned(ordinal=1, reason="x")]


def test_heartbeats_carry_the_newest_numbers_and_leave_on_time():
    talk = Talk().up()
    assert talk.said() == []
    talk.session.stats = {"actor/tokens": 5.0}
    assert talk.later(0.4) == []
    assert talk.session.next_tick() == pytest.approx(talk.now + 0.1)
    assert talk.later(0.1) == [Heartbeat(stats={"actor/tokens": 5.0})]
    assert talk.later(0.4) == []
    assert talk.later(0.2) == [Heartbeat(stats={"actor/tokens": 5.0})]


def test_the_buffer_may_ask_for_fewer_heartbeats_and_for_more_again():
    talk = Talk().up()
    talk.later(0.5)
    talk.hears(Alive(known=True, heartbeat_s=2.0))
    assert talk.later(0.5) == [Heartbeat()], "this one was due already"
    assert talk.later(1.9) == []
    assert talk.later(0.1) == [Heartbeat()]
    talk.hears(Alive(known=True))
    assert (talk.later(1.9), talk.later(0.1)) == ([], [Heartbeat()])
    talk.hears(Alive(known=True, heartbeat_s=0.5))
    talk.later(2.0)
    assert talk.later(0.5) == [Heartbeat()]


@pytest.mark.parametrize("cause", ["unknown", "new connection", "silence"])
def test_unanswered_questions_are_asked_again_after_a_new_handshake(cause):
    talk = Talk().up()
    talk.submit(group_result(1), group_result(2), TAKE, PUBLISH, FINISH, TicketReturned(ordinal=5, reason="lost for good"))
    talk.said()
    talk.hears(GroupAck(ordinal=1, accepted=True))
    if cause == "unknown":
        talk.hears(Alive(known=False))
    elif cause == "new connection":
        talk.session.disconnected()
        talk.session.connected(talk.now)
    else:
        talk.now += 10.1
    assert talk.said() == [msgspec.structs.replace(HELLO, generation=3)]
    talk.submit(group_result(3))
    assert talk.said() == []
    talk.hears(WELCOME)
    assert talk.said() == [group_result(2), TAKE, PUBLISH, FINISH, group_result(3)]
    assert talk.session.counters["client/sent_again"] == 4


def test_a_question_that_was_answered_is_not_asked_again():
    talk = Talk().up()
    talk.submit(group_result(1), TAKE, PUBLISH, FINISH)
    answers = [
        GroupAck(ordinal=1, accepted=False, reason="duplicate"),
        BatchReady(batch=Batch(generation=3, version=0, groups=[])),
        PublishPlan(generation=3, epoch=1, version=0, members=[]),
        Finished(status=STATUS),
    ]
    assert [talk.hears(answer) for answer in answers] == answers
    talk.said()
    talk.hears(Alive(known=False))
    talk.said()
    talk.hears(WELCOME)
    assert talk.said() == []


def test_what_could_not_leave_before_a_break_leaves_once_after_it():
    talk = Talk().up()
    talk.submit(group_result(1), TicketReturned(ordinal=2, reason="x"))
    talk.session.connected(talk.now)
    assert talk.said() == [msgspec.structs.replace(HELLO, generation=3)]
    talk.hears(WELCOME)
    assert talk.said() == [group_result(1), TicketReturned(ordinal=2, reason="x")]


def test_a_second_answer_to_take_batch_is_counted_and_dropped():
    talk = Talk().up()
    talk.submit(TAKE)
    ready = BatchReady(batch=Batch(generation=3, version=0, groups=[]))
    assert talk.hears(ready) == ready
    assert talk.hears(ready) is None
    assert talk.session.counters["client/unasked_answers"] == 1


def test_a_later_hello_tells_the_version_generation_and_stage_that_the_client_reached():
    talk = Talk().up()
    talk.submit(StepDone(generation=3, version=1), StepDone(generation=3, version=2, stage=1))
    talk.said()
    talk.hears(Alive(known=False))
    assert talk.said() == [msgspec.structs.replace(HELLO, version=2, generation=3, stage=1)]


def test_an_actors_later_hello_tells_the_weights_that_it_holds():
    actor = msgspec.structs.replace(HELLO, role=Role.actor, version=-1)
    talk = Talk(actor).up()
    applied = WeightsApplied(generation=3, version=4, epoch=1, checksums=[], seconds=0.1)
    talk.submit(applied, msgspec.structs.replace(applied, version=5, error="out of memory"))
    talk.said()
    talk.hears(Alive(known=False))
    assert talk.said() == [msgspec.structs.replace(actor, version=4, generation=3)]


def test_a_buffer_that_is_not_there_is_unreachable_at_the_deadline_and_not_before():
    talk = Talk(timeout_s=5.0)
    talk.later(4.9)
    assert talk.session.ended is None
    assert talk.session.next_tick() == pytest.approx(105.0)
    talk.later(0.2)
    assert isinstance(talk.session.ended, BufferUnreachable)
    assert "tcp://there:1 within 5 s" in str(talk.session.ended)


def test_a_key_that_the_buffer_does_not_know_ends_it_at_once():
    talk = Talk(timeout_s=60.0)
    talk.session.shut_out(unknown_key=True)
    assert isinstance(talk.session.ended, BufferUnreachable)
    assert "does not know the key; the keys may differ: is buffer.keys" in str(talk.session.ended)


def test_a_handshake_that_fails_is_mentioned_at_the_deadline_unless_a_later_one_succeeded():
    for succeeds in (False, True):
        talk = Talk(timeout_s=5.0)
        talk.session.shut_out(unknown_key=False)
        if succeeds:
            talk.session.connected(talk.now)
        talk.later(4.9)
        assert talk.session.ended is None
        talk.later(0.2)
        assert isinstance(talk.session.ended, BufferUnreachable)
        assert ("the keys may differ" in str(talk.session.ended)) is not succeeds


def test_six_silences_make_a_buffer_unreachable():
    talk = Talk().up()
    talk.later(10.0)
    assert talk.session.is_up
    talk.later(0.1)
    assert not talk.session.is_up
    talk.later((SILENCES - 1) * 10.0 - 0.2)
    assert talk.session.ended is None
    talk.later(0.2)
    assert isinstance(talk.session.ended, BufferUnreachable)


def test_one_that_pulls_its_weights_waits_ten_times_as_long_for_a_link_that_was_cut():
    talk = Talk(hello=msgspec.structs.replace(HELLO, transport=PULL)).up()
    talk.later(10.1)
    talk.later((FAR_SILENCES - 1) * 10.0 - 0.2)
    assert talk.session.ended is None
    talk.later(0.2)
    assert isinstance(talk.session.ended, BufferUnreachable)
    assert "within 600 s" in str(talk.session.ended)


def test_a_client_that_itself_slept_for_an_hour_still_asks_before_it_gives_up():
    talk = Talk().up()
    assert talk.later(3600.0) == [msgspec.structs.replace(HELLO, generation=3)]
    assert talk.session.ended is None
    talk.hears(WELCOME)
    assert talk.session.is_up


def test_anything_that_is_heard_ends_a_silence():
    talk = Talk().up()
    for _ in range(10):
        talk.later(9.0)
        talk.hears(Alive(known=True))
        assert talk.session.is_up


def test_a_refusal_is_final_unless_it_says_retry():
    talk = Talk()
    talk.session.connected(talk.now)
    talk.said()
    talk.hears(Refused(reason="a learner lives", retry=True))
    assert talk.session.ended is None
    assert talk.said() == []
    assert talk.later(0.3) == [HELLO]
    talk.hears(Refused(reason="another tokenizer"))
    assert isinstance(talk.session.ended, HandshakeRefused)
    assert "refused learner: another tokenizer" in str(talk.session.ended)


def test_a_refusal_for_now_becomes_final_at_the_deadline():
    talk = Talk(timeout_s=1.0)
    talk.session.connected(talk.now)
    for _ in range(4):
        assert talk.said() == [HELLO]
        talk.hears(Refused(reason="a learner lives", retry=True))
        talk.now += 0.26
    talk.said()
    assert isinstance(talk.session.ended, HandshakeRefused)
    assert "still refused learner after 1 s: a learner lives" in str(talk.session.ended)


def test_stop_is_no_silence_and_what_follows_it_is_not_unreachable():
    talk = Talk().up()
    talk.hears(Stop(reason="the run is over"))
    assert isinstance(talk.session.stopped, RunStopped)
    talk.session.disconnected()
    assert not talk.session.is_up
    talk.later(11.0)
    talk.later(60.0)
    assert isinstance(talk.session.ended, RunStopped)


def test_flushed_means_sent_and_every_group_acknowledged():
    talk = Talk().up()
    assert talk.session.flushed()
    talk.submit(group_result(1))
    assert not talk.session.flushed()
    talk.said()
    assert not talk.session.flushed()
    talk.hears(GroupAck(ordinal=1, accepted=True))
    assert talk.session.flushed()


def test_ordinary_messages_are_the_applications():
    talk = Talk().up()
    assert talk.hears(Tickets(tickets=[])) == Tickets(tickets=[])
    assert talk.hears(Alive(known=True)) is None

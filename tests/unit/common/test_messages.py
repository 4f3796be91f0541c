"""The rules that messages carry: each class is in the union of its direction, and a question names an answer that fits it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

import msgspec
import pytest
from prolong.common import message_kinds as kinds
from prolong.common import messages as m
from prolong.common.errors import WireError
from prolong.common.transport.wire import Decoder, encode
from prolong.common.types import Batch, Manifest, Rendezvous, WeightSource

NOWHERE = Rendezvous(transport="collective", address=b"")
STATUS = m.Status(run="r", generation=3, version=9, steps=9, ledger={}, balanced=True, peers={}, counters={}, validation=[])


def classes_below(base: type[kinds.Message]) -> Iterator[type[kinds.Message]]:
    for below in base.__subclasses__():
        if below.__module__ != kinds.__name__:
            yield below
        yield from classes_below(below)


def test_each_class_of_message_is_in_the_union_of_its_direction() -> None:
    assert set(get_args(m.FromClient)) == set(classes_below(kinds.ClientMessage))
    assert set(get_args(m.FromBuffer)) == set(classes_below(kinds.BufferMessage))
    assert {
        kind for kind in get_args(m.FromClient) if m.Role.actor in kind.senders and m.Role.learner not in kind.senders
    } == set(get_args(m.FromActor))
    assert {kind for kind in get_args(m.FromClient) if kind.senders == {m.Role.learner}} == set(get_args(m.FromLearner))


def test_each_question_names_answers_that_the_buffer_sends() -> None:
    questions = [kind for kind in get_args(m.FromClient) if issubclass(kind, kinds.Question)]
    assert {kind.__name__ for kind in questions} == {
        "Hello", "Heartbeat", "GroupResult", "TicketHandedOver", "TakeBatch", "Finish", "Publish", "Offer", "StatusRequest",
        "RequestReset",
    }  # fmt: skip
    for question in questions:
        answer = question.answer_type()
        assert set(get_args(answer) or (answer,)) <= set(get_args(m.FromBuffer)), question


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        (m.TakeBatch(generation=3, version=7), m.BatchReady(batch=Batch(generation=3, version=7, groups=[]))),
        (m.Finish(generation=3, version=9), m.Finished(status=STATUS)),
        (
            m.Publish(generation=3, version=5, rendezvous=NOWHERE, manifest=Manifest(buckets=[])),
            m.PublishPlan(generation=3, epoch=1, version=5, members=[]),
        ),
    ],
)
def test_an_answer_has_the_key_of_its_question(question: kinds.Question[kinds.Answer], answer: kinds.Answer) -> None:
    assert question.asked_again
    assert question.newest_only
    assert isinstance(answer, question.answer_type())
    assert answer.key() == question.key()
    assert answer.is_of(3)


def test_answers_of_another_generation_are_told_apart() -> None:
    assert not m.BatchReady(batch=Batch(generation=3, version=7, groups=[])).is_of(4)
    assert not m.Finished(status=STATUS).is_of(4)
    assert not m.PublishPlan(generation=3, epoch=1, version=7, members=[]).is_of(4)


def test_only_messages_that_tell_of_no_change_leave_before_it_is_durable() -> None:
    early = {kind.__name__ for kind in get_args(m.FromBuffer) if not kind.durable_first}
    assert early == {"Refused", "Alive", "Stop", "Status", "WeightReaders"}
    welcome = m.Welcome(generation=2, heartbeat_s=1.0, lease_s=1.0, version=0)
    assert welcome.may_leave(durable_generation=2)
    assert not welcome.may_leave(durable_generation=1)


def test_rules_are_no_fields_and_never_on_the_wire() -> None:
    frame = encode(m.TakeBatch(generation=3, version=7))
    assert Decoder[m.FromClient](m.FromClient, 1 << 20).decode(frame) == m.TakeBatch(generation=3, version=7)
    assert msgspec.msgpack.decode(frame[8:]) == {"type": "TakeBatch", "generation": 3, "version": 7}


@pytest.mark.parametrize(
    "endpoint", ["ipc:///tmp/x", "inproc://gate", "tcp://host", "tcp://host:1/x", "tcp://a b:1", "tcp://h:1\nx", "h:1"]
)
def test_nobody_is_told_to_pull_over_anything_but_tcp(endpoint: str) -> None:
    relay = m.Hello(
        role=m.Role.relay, name="r", protocol=5, tokenizer="", host="h", pid=1, serves=WeightSource(endpoint=endpoint)
    )
    decoder = Decoder(m.FromClient, 1 << 20)
    with pytest.raises(WireError):
        decoder.decode(encode(relay))
    sound = msgspec.structs.replace(relay, serves=WeightSource(endpoint="tcp://[fd00::7]:5999"))
    assert decoder.decode(encode(sound)) == sound

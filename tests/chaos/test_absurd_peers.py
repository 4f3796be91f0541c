"""Well-formed messages that nobody means well with, one kind at a time: a key is enough to send them, no run ends of them."""

from pathlib import Path

import msgspec
import pytest
import zmq
from prolong.common import messages as m
from prolong.common.transport.wire import encode
from prolong.common.types import Rendezvous

from tests.support.attack import Hostile, Pair, assert_sound
from tests.support.buffer_process import NOTHING, BufferProcess, make_client, make_config

LIMIT_MB = 1
LIMIT = LIMIT_MB << 20
LARGEST = 2**64 - 1  # that MessagePack can carry
ABSURD_LEARNERS = [
    {"version": 2**63, "generation": -1},
    {"version": LARGEST, "generation": 1},
    {"version": 0, "generation": LARGEST},
    {"version": -(2**63), "generation": -(2**63)},
    {"version": 1, "generation": 2**63, "stage": 0, "pid": LARGEST, "capacity": LARGEST},
]


@pytest.fixture
def cfg(tmp_path: Path):
    # silent ones are forgotten soon, and nobody is taken for silent that has to wait for a busy machine
    return make_config(tmp_path, steps=1_000_000, max_message_mb=LIMIT_MB, silence_s=3.0)


@pytest.fixture
def buffer(cfg):
    with BufferProcess(cfg) as process:
        yield process


@pytest.fixture
def hostile(cfg, buffer):
    with zmq.Context() as context:
        yield Hostile(context, cfg, buffer.address, seed=1)


def assert_unharmed(cfg, buffer: BufferProcess, hostile: Hostile) -> None:
    assert_sound(buffer, hostile.status())
    with Pair(cfg, buffer.address) as pair:
        pair.wait_for(3)
    assert_sound(buffer, hostile.status())


@pytest.mark.parametrize("claims", ABSURD_LEARNERS)
def test_a_learner_with_absurd_numbers_ends_nothing(cfg, buffer, hostile, claims):
    hostile.tell([encode(hostile.hello(m.Role.learner, **claims)), encode(m.TakeBatch(generation=1, version=0))])
    assert_unharmed(cfg, buffer, hostile)


@pytest.mark.parametrize("role", list(m.Role))
@pytest.mark.parametrize("change", ["name", "host", "tokenizer", "protocol"])
def test_a_greeting_of_a_megabyte_ends_nothing(cfg, buffer, hostile, role, change):
    text = "x" * (LIMIT - 300)
    changes = {"protocol": 1, "host": text} if change == "protocol" else {change: text}
    name = changes.pop("name", "rogue")
    hostile.tell([encode(msgspec.structs.replace(hostile.hello(role, name), **changes))])
    assert_unharmed(cfg, buffer, hostile)


def test_what_peers_say_of_themselves_does_not_outgrow_the_status_and_the_batch(cfg, buffer, hostile):
    for number in range(40):
        stats = {f"{number} {index} {'x' * 100}": float(index) for index in range(400)}
        role = m.Role.actor if number % 2 else m.Role.observer
        hostile.tell([encode(hostile.hello(role, f"rogue {number} {'y' * 100}")), encode(m.Heartbeat(stats=stats))])
    assert_unharmed(cfg, buffer, hostile)


def test_a_broadcast_whose_answers_are_megabytes_ends_nothing(cfg, buffer, hostile):
    with Pair(cfg, buffer.address) as pair:
        pair.wait_for(1)
        for number in range(6):
            rogue = make_client(cfg, buffer.address, m.Role.actor, f"rogue {number}")
            asked = rogue.inbox(m.UpdateWeights, m.Tickets)
            with rogue:
                rogue.connect(60.0)
                update = asked.take(60.0)
                assert isinstance(update, m.UpdateWeights)
                rogue.send(
                    m.WeightsApplied(
                        generation=update.generation,
                        version=update.version,
                        epoch=update.epoch,
                        seconds=0.0,
                        checksums=[1] * 900_000 if number % 2 else [],
                        error="" if number % 2 else "x" * 900_000,
                    )
                )
        pair.wait_for(3)
        assert_sound(buffer, hostile.status())


def test_a_publish_of_a_megabyte_is_told_to_its_learner_and_ends_nothing(cfg, buffer, hostile):
    with make_client(cfg, buffer.address, m.Role.actor, "actor-0") as actor:
        actor.connect(60.0)
        generation = hostile.status().generation + 1
        rendezvous = Rendezvous(transport="collective", address=b"x" * (LIMIT - 250))
        publish = m.Publish(generation=generation, version=0, rendezvous=rendezvous, manifest=NOTHING)
        hostile.tell([encode(hostile.hello(m.Role.learner)), encode(publish)])
    assert_unharmed(cfg, buffer, hostile)


@pytest.mark.parametrize("where", ["detail", "status", "verifier", "metrics", "actor"])
def test_groups_with_padding_do_not_outgrow_the_batch(cfg, buffer, hostile, where):
    """Each fits into a frame; the B of a batch would not."""
    text = "x" * (LIMIT * 2 // 3)
    padding = {"metrics": {f"{index} {'x' * 2_800}": 0.0 for index in range(250)}} if where == "metrics" else {where: text}
    with Pair(cfg, buffer.address, pad=lambda group: padded(group, padding)) as pair:
        pair.wait_for(3)
        status = hostile.status()
        assert_sound(buffer, status)
        assert pair.num_padded > 0


def padded(group, padding):
    """`group` with this in it: in its first verdict, unless it is a field of the group."""
    if "actor" in padding:
        return msgspec.structs.replace(group, **padding)
    first, *rest = group.rollouts
    first = msgspec.structs.replace(first, verdict=msgspec.structs.replace(first.verdict, **padding))
    return msgspec.structs.replace(group, rollouts=[first, *rest])

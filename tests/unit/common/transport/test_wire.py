"""Frames: another MessagePack library reads them, and each kind of damage is refused with its own error."""

import struct
import tracemalloc
import zlib

import msgpack
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prolong.common.errors import WireChecksumError, WireError, WireSchemaError, WireSizeError, WireVersionError
from prolong.common.messages import FromBuffer, FromClient, GroupResult, Heartbeat, Hello, Role, Tickets
from prolong.common.transport.wire import HEADER_BYTES, SCHEMA_VERSION, Decoder, encode
from prolong.common.types import (
    FinishReason,
    Group,
    Prompt,
    Rollout,
    Sampling,
    Ticket,
    TicketKind,
    ValidationSetting,
    Verdict,
    VerdictStatus,
    VersionSpan,
)

LIMIT = 1 << 20
HELLO = Hello(role=Role.actor, name="actor-0", protocol=1, tokenizer="abc", host="here", pid=7, capacity=4)
PROMPT = Prompt(
    uid="p/1", domain="math", task="addition", text="1+1=?", token_ids=np.arange(5, dtype="<i4").tobytes(), verifier="math"
)
SAMPLING = Sampling(n=2, temperature=1.0, top_p=1.0, max_tokens=100)


def make_rollout(num_tokens: int = 3, **changes) -> Rollout:
    rollout = Rollout(
        token_ids=np.arange(num_tokens, dtype="<i4").tobytes(),
        behaviour_logprobs=np.full(num_tokens, -0.5, dtype="<f4").tobytes(),
        spans=[VersionSpan(version=4, start=0, end=1), VersionSpan(version=5, start=1, end=num_tokens)],
        finish_reason=FinishReason.stop,
        verdict=Verdict(reward=1.0, status=VerdictStatus.ok, verifier="math", seconds=0.01, metrics={"edits": 2.0}),
    )
    return msgspec.structs.replace(rollout, **changes)


def make_group(*rollouts: Rollout, **changes) -> Group:
    group = Group(
        ordinal=9,
        kind=TicketKind.train,
        generation=1,
        prompt=PROMPT,
        setting=ValidationSetting.none,
        sampling=SAMPLING,
        rollouts=list(rollouts),
        actor="a",
        seconds=1.5,
    )
    return msgspec.structs.replace(group, **changes)


def packed(tree: object) -> bytes:
    payload = msgpack.packb(tree)
    assert payload is not None
    return payload


def framed(payload: bytes, version: int = SCHEMA_VERSION) -> bytes:
    return b"PRL" + bytes([version]) + struct.pack("<I", zlib.crc32(payload)) + payload


def decoder(limit: int = LIMIT) -> Decoder[FromClient]:
    return Decoder[FromClient](FromClient, limit)


def test_a_group_survives_the_wire_unchanged():
    message = GroupResult(group=make_group(make_rollout(), make_rollout(8)))
    assert decoder().decode(encode(message)) == message
    assert decoder().decode(memoryview(encode(message))) == message


def test_msgpack_reads_what_we_encode():
    frame = encode(GroupResult(group=make_group(make_rollout())))
    assert frame[:4] == b"PRL\x01"
    assert struct.unpack("<I", frame[4:8])[0] == zlib.crc32(frame[8:])
    tree = msgpack.unpackb(frame[HEADER_BYTES:])
    rollout = tree["group"]["rollouts"][0]
    assert tree["type"] == "GroupResult"
    assert rollout["spans"] == [[4, 0, 1, ""], [5, 1, 3, ""]]
    assert np.frombuffer(rollout["token_ids"], "<i4").tolist() == [0, 1, 2]
    assert np.frombuffer(rollout["behaviour_logprobs"], "<f4").tolist() == [-0.5] * 3
    assert rollout["verdict"] == {
        "reward": 1.0,
        "status": "ok",
        "verifier": "math",
        "seconds": 0.01,
        "detail": "",
        "metrics": {"edits": 2.0},
    }


@pytest.mark.parametrize("setting", ["x", "x" * (LIMIT // 2)])
def test_a_group_of_a_setting_that_there_is_not_is_refused(setting: str):
    with pytest.raises(WireError, match="setting"):
        decoder().decode(encode(GroupResult(group=make_group(setting=setting))))


def test_we_read_what_msgpack_encodes():
    tree = {"type": "Tickets", "tickets": [dict(msgspec.to_builtins(make_ticket(), builtin_types=(bytes,)))]}
    assert Decoder[FromBuffer](FromBuffer, LIMIT).decode(framed(packed(tree))) == Tickets(tickets=[make_ticket()])


def make_ticket() -> Ticket:
    sampling = Sampling(n=4, temperature=1.0, top_p=1.0, max_tokens=16)
    return Ticket(
        ordinal=3, kind=TicketKind.train, prompt=PROMPT, sampling=sampling, seed=11, generation=1, version=2, lease_s=60.0
    )


def test_size_is_checked_before_anything_is_read():
    with pytest.raises(WireSizeError, match="at most 64"):
        decoder(64).decode(framed(b"x" * 57))
    for size in range(HEADER_BYTES + 1):
        with pytest.raises(WireSizeError):
            decoder().decode(encode(HELLO)[:size])


def test_another_schema_version_is_named():
    with pytest.raises(WireVersionError, match="version 200: expected 1"):
        decoder().decode(framed(packed({"type": "StatusRequest"}), version=200))
    with pytest.raises(WireVersionError, match="does not speak prolong"):
        decoder().decode(b"GET / HTTP/1.1\r\n\r\n")


def test_every_single_flipped_bit_is_refused():
    frame = encode(HELLO)
    for position in range(8 * len(frame)):
        damaged = bytearray(frame)
        damaged[position // 8] ^= 1 << position % 8
        with pytest.raises(WireError):
            decoder().decode(bytes(damaged))
    assert decoder().decode(frame) == HELLO


def test_every_truncation_is_refused():
    frame = encode(HELLO)
    for size in range(len(frame)):
        with pytest.raises(WireError):
            decoder().decode(frame[:size])
    with pytest.raises(WireChecksumError, match="expected 0x"):
        decoder().decode(frame[:-1])


@pytest.mark.parametrize(
    "tree",
    [
        {"type": "Nonsense"},
        {"type": "TakeBatch", "generation": 1},
        {"type": "TakeBatch", "generation": "1", "version": 2},
        {"type": "TakeBatch", "generation": 1.5, "version": 2},
        {"type": "Heartbeat", "stats": [1, 2]},
        {"type": "Tickets", "tickets": []},
        ["TakeBatch", 1, 2],
        {},
        None,
        {"type": "TakeBatch", "generation": 1 << 63, "version": -(1 << 63)} | {"version": "x"},
    ],
)
def test_a_well_formed_payload_of_another_shape_is_refused(tree):
    with pytest.raises(WireSchemaError, match="does not decode"):
        decoder().decode(framed(packed(tree)))


def test_text_that_is_not_utf8_and_endless_nesting_are_refused():
    with pytest.raises(WireSchemaError):
        decoder().decode(framed(b"\x82\xa4type\xaeTicketReturned\xa6reason\xa2\xff\xfe"))
    with pytest.raises(WireSchemaError):
        decoder().decode(framed(b"\x81\xa7unknown" + b"\x91" * 500_000))


def test_unknown_fields_are_refused_but_for_the_greeting_of_a_newer_peer_which_must_be_told_why_it_is_not_let_in():
    tree = {"type": "TakeBatch", "generation": 1, "version": 2, "hint": [1, {"a": b"b"}]}
    with pytest.raises(WireSchemaError, match="unknown field `hint`"):
        decoder().decode(framed(packed(tree)))
    tree = {"type": "Hello", "role": "actor", "name": "a", "protocol": 99, "tokenizer": "t", "host": "h", "pid": 1, "hint": 2}
    hello = decoder().decode(framed(packed(tree)))
    assert isinstance(hello, Hello)
    assert hello.protocol == 99


def test_sixteen_megabytes_of_empty_maps_cost_no_memory():
    frame = framed(b"\xdd" + struct.pack(">I", 1 << 24) + b"\x80" * (1 << 24))
    tracemalloc.start()
    with pytest.raises(WireSchemaError):
        decoder(1 << 25).decode(frame)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=200))
def test_random_payloads_raise_wire_errors_only(payload):
    try:
        decoder().decode(framed(payload))
    except WireError:
        return
    assert msgpack.unpackb(payload)["type"]


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.text(max_size=8), st.floats(allow_nan=False), max_size=5))
def test_heartbeats_survive_the_wire(stats):
    assert decoder().decode(encode(Heartbeat(stats=stats))) == Heartbeat(stats=stats)

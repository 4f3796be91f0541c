"""Hostile frames for tests: seeded mutations of valid ones, well-formed ones with absurd content, and bombs."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable
from typing import Any, get_args

import msgpack
import msgspec
import numpy as np
from prolong.common import messages as m
from prolong.common.errors import WireError
from prolong.common.transport.wire import HEADER_BYTES, Decoder, encode
from prolong.common.types import (
    BucketSpec,
    FinishReason,
    Group,
    Manifest,
    Prompt,
    Rendezvous,
    Rollout,
    Sampling,
    StartedRollout,
    StepEvidence,
    TensorSpec,
    TicketKind,
    ValidationSetting,
    Verdict,
    VerdictStatus,
    VersionSpan,
    WeightSource,
)

PREFIX = b"PRL\x01"
NUMBERS = [0, 1, -1, 2, 5, 255, 65_536, 2**31, -(2**31), 2**53, 2**62, 2**63 - 1, -(2**63), 2**63, 2**64 - 2, 2**64 - 1]
FLOATS = [0.0, -0.0, -1.0, 1e308, -1e308, 5e-324, float("nan"), float("inf"), float("-inf")]
TEXTS = [
    "",
    "x",
    "actor",
    "learner",
    "\0",
    "\x1b[2J",
    "\n",
    "[bold]",
    "\u202e",
    "\U0001f600",
    "../../etc",
    "{}",
    "x" * 300,
    "y" * 9000,
]
OTHER_TYPES: list[Any] = [None, True, -1, 1.5, "", "x", b"", b"\xff", [], {}, [[]], {"a": {}}, 2**64 - 1, float("nan")]
HUGE_HEADERS = [b"\xdd", b"\xdf", b"\xdb", b"\xc6", b"\xc9"]  # array, map, str, bin, ext with 32-bit lengths


def sealed(payload: bytes) -> bytes:
    """A frame whose checksum is right, whatever it holds: the typed decoder sees the payload."""
    return PREFIX + struct.pack("<I", zlib.crc32(payload)) + payload


def make_group(num_tokens: int = 4, num_rollouts: int = 2) -> Group:
    """A sound group of nobody's ticket."""
    prompt = Prompt(uid="p/1", domain="math", task="t", text="1+1", token_ids=bytes(20), verifier="number")
    rollout = Rollout(
        token_ids=np.full(num_tokens, 2, "<i4").tobytes(),
        behaviour_logprobs=np.full(num_tokens, -0.5, "<f4").tobytes(),
        spans=[VersionSpan(version=0, start=0, end=num_tokens)],
        finish_reason=FinishReason.stop,
        verdict=Verdict(reward=1.0, status=VerdictStatus.ok, verifier="number", seconds=0.1, metrics={"edits": 1.0}),
    )
    return Group(
        ordinal=3,
        kind=TicketKind.train,
        generation=1,
        prompt=prompt,
        setting=ValidationSetting.none,
        sampling=Sampling(n=num_rollouts, temperature=1.0, top_p=1.0, max_tokens=16),
        rollouts=[rollout] * num_rollouts,
        actor="rogue",
        seconds=1.0,
    )


def make_started() -> StartedRollout:
    """Two tokens of a rollout, by nobody."""
    ids, logprobs = np.full(2, 2, "<i4").tobytes(), np.full(2, -0.5, "<f4").tobytes()
    spans = [VersionSpan(version=0, start=0, end=2, actor="rogue")]
    return StartedRollout(index=0, token_ids=ids, behaviour_logprobs=logprobs, spans=spans)


def make_samples(hello: m.Hello) -> list[Any]:
    """A valid message of every type that clients send; fails when a type is missing here."""
    manifest = Manifest(
        buckets=[BucketSpec(num_bytes=64, tensors=[TensorSpec(name="w", dtype="float32", shape=[4], offset=0)])]
    )
    step: dict[str, Any] = {"generation": 1, "version": 1}
    samples = [
        hello,
        m.Heartbeat(stats={"tokens": 5.0, "busy_s": 1.5}),
        m.GroupResult(group=make_group()),
        m.TicketHandedOver(ordinal=3, generation=1, started=[make_started()]),
        m.TicketReturned(ordinal=3, reason="full"),
        m.TakeBatch(**step),
        m.StepDone(**step, evidence=StepEvidence(ess=0.9, kl=0.01, wait_s=0.5, step_s=2.0)),
        m.CheckpointSaved(**step),
        m.Publish(**step, rendezvous=Rendezvous(transport="collective", address=b""), manifest=manifest),
        m.Offer(**step, manifest=manifest, checksums=[7], catalog=bytes(32), source=WeightSource(endpoint="tcp://127.0.0.1:9")),
        m.WeightsApplied(generation=1, version=1, epoch=1, checksums=[7, 2**31], seconds=0.5),
        m.Cordon(epoch=1, names=["rogue"]),
        m.Finish(**step),
        m.StatusRequest(),
        m.RequestReset(),
        *([m.Leave(reason="done")] if hasattr(m, "Leave") else []),
    ]
    assert {type(sample) for sample in samples} == set(get_args(m.FromClient)), "a message of every type is fuzzed"
    return samples


class Fuzzer:
    """An endless source of frames; the same seed gives the same ones."""

    def __init__(self, seed: int, samples: list[Any], max_bytes: int, kind: Any = m.FromClient) -> None:
        """`kind`: what the receiver takes: the union of the samples' classes."""
        self.rng = random.Random(seed)
        self.samples = samples
        self.frames = [encode(sample) for sample in samples]
        self.trees = [msgpack.unpackb(frame[HEADER_BYTES:]) for frame in self.frames]
        self._decoder: Decoder[Any] = Decoder(kind, max_bytes)
        self._ways: list[Callable[[], list[bytes]]] = [
            self.flipped,
            self.cut,
            self.extended,
            self.of_another_protocol,
            self.of_another_checksum,
            self.resealed,
            self.headed,
            self.nested,
            self.retyped,
            self.retyped,
            self.renamed,
            self.noise,
            self.in_parts,
        ]

    def malformed(self) -> list[bytes]:
        """The parts of a message that the buffer must refuse."""
        while True:
            parts = self.rng.choice(self._ways)()
            if len(parts) != 1 or not self.decodes(parts[0]):
                return parts

    def decodes(self, frame: bytes) -> bool:
        """Whether the typed decoder takes a frame."""
        try:
            self._decoder.decode(frame)
        except WireError:
            return False
        return True

    def absurd(self, share: float = 0.3, kinds: tuple[type, ...] = ()) -> bytes:
        """A frame with values that their types allow and sense forbids; of these types, if any are named."""
        while True:
            number = self.rng.randrange(len(self.trees))
            if kinds and not isinstance(self.samples[number], kinds):
                continue
            tree = self._distorted(self.trees[number], share)
            frame = sealed(packed(tree | {"type": self.trees[number]["type"]}))
            if self.decodes(frame):
                return frame

    # --- mutations ----------------------------------------------------------------------------------------------------

    def flipped(self) -> list[bytes]:
        return [self._flip(self.rng.choice(self.frames), self.rng.randint(1, 8))]

    def cut(self) -> list[bytes]:
        frame = self.rng.choice(self.frames)
        return [frame[: self.rng.randrange(len(frame))]]

    def extended(self) -> list[bytes]:
        return [self.rng.choice(self.frames) + self.rng.randbytes(self.rng.choice([1, 7, 1000]))]

    def of_another_protocol(self) -> list[bytes]:
        prefix = self.rng.choice([b"PRL\x00", b"PRL\x02", b"PRL\xff", b"GET ", b"\x16\x03\x01\x02", b"\0\0\0\0"])
        return [prefix + self.rng.choice(self.frames)[4:]]

    def of_another_checksum(self) -> list[bytes]:
        frame = self.rng.choice(self.frames)
        return [frame[:4] + self.rng.randbytes(4) + frame[HEADER_BYTES:]]

    def resealed(self) -> list[bytes]:
        return [sealed(self._flip(self.rng.choice(self.frames)[HEADER_BYTES:], self.rng.randint(1, 4)))]

    def headed(self) -> list[bytes]:
        """A header that announces gigabytes in the middle of a payload."""
        payload = self.rng.choice(self.frames)[HEADER_BYTES:]
        where = self.rng.randrange(len(payload))
        length = struct.pack(">I", self.rng.choice([2**32 - 1, 2**31, 2**24, 65_536]))
        return [sealed(payload[:where] + self.rng.choice(HUGE_HEADERS) + length + payload[where:])]

    def nested(self) -> list[bytes]:
        depth = self.rng.choice([100, 2_000, 20_000])
        start = self.rng.choice(
            [b"\x82\xa4type\xa9Heartbeat\xa5stats", b"\x81\xa7unknown", b"", b"\x82\xa4type\xa6Cordon\xa5names"]
        )
        return [sealed(start + self.rng.choice([b"\x91", b"\x81\xa1a"]) * depth)]

    def retyped(self) -> list[bytes]:
        """A value of another type somewhere in the message."""
        tree = self._replaced(self.rng.choice(self.trees), self.rng.choice(OTHER_TYPES))
        return [sealed(packed(tree))]

    def renamed(self) -> list[bytes]:
        """A field that is missing, or a message of a type that there is not."""
        tree = dict(self.rng.choice(self.trees))
        if self.rng.random() < 0.5:
            del tree[self.rng.choice(list(tree))]
        else:
            tree["type"] = self.rng.choice(["", "Hullo", "__class__", "Welcome", "x" * 1000])
        return [sealed(packed(tree))]

    def noise(self) -> list[bytes]:
        noise = self.rng.randbytes(self.rng.choice([0, 1, 8, 9, 100, 5_000]))
        return [self.rng.choice([noise, sealed(noise)])]

    def in_parts(self) -> list[bytes]:
        frame = self.rng.choice(self.frames)
        return self.rng.choice([[frame, b""], [b"", frame], [frame] * 2, [b""] * 200, [b"x"] * 50, [frame] * 20])

    # --- trees --------------------------------------------------------------------------------------------------------

    def _flip(self, frame: bytes, times: int) -> bytes:
        damaged = bytearray(frame)
        for _ in range(times):
            damaged[self.rng.randrange(len(damaged))] ^= 1 << self.rng.randrange(8)
        return bytes(damaged)

    def _replaced(self, tree: Any, value: Any) -> Any:
        """`tree` with one leaf or branch replaced."""
        if isinstance(tree, dict) and tree and self.rng.random() < 0.9:
            key = self.rng.choice(list(tree))
            return tree | {key: self._replaced(tree[key], value)}
        if isinstance(tree, list) and tree and self.rng.random() < 0.9:
            at = self.rng.randrange(len(tree))
            return [*tree[:at], self._replaced(tree[at], value), *tree[at + 1 :]]
        return value

    def _distorted(self, tree: Any, share: float) -> Any:
        """`tree` with so many of its leaves replaced by others of the same type, and some lists longer or empty."""
        if isinstance(tree, dict):
            grown = {key: self._distorted(value, share) for key, value in tree.items()}
            if all(isinstance(value, float) for value in tree.values()) and self.rng.random() < share:
                grown |= {f"metric {n}": self.rng.choice(FLOATS) for n in range(self.rng.choice([1, 50, 1000]))}
            return grown
        if isinstance(tree, list):
            items = [self._distorted(item, share) for item in tree]
            return items * self.rng.choice([0, 1, 2, 300]) if self.rng.random() < share / 3 else items
        if self.rng.random() >= share or isinstance(tree, bool):
            return tree
        choices: dict[type, Callable[[], Any]] = {
            int: lambda: self.rng.choice(NUMBERS),
            float: lambda: self.rng.choice(FLOATS),
            str: lambda: self.rng.choice(TEXTS),
            bytes: lambda: self.rng.randbytes(self.rng.choice([0, 1, 4, 16, 400])),
        }
        return choices.get(type(tree), lambda: tree)()


def bombs(size: int) -> dict[str, bytes]:
    """Frames of at most `size` bytes whose objects would take many times as much: name -> frame."""
    step = {"generation": 1, "version": 1}
    applied = {"type": "WeightsApplied", **step, "epoch": 1, "seconds": 0.5}
    publish = {"type": "Publish", **step, "rendezvous": {"transport": "collective", "address": b""}}
    group = msgpack.unpackb(msgspec.msgpack.encode(make_group()))
    rollout = group["rollouts"][0]
    crowded = _grown(rollout, "spans", _array(b"\x93\x00\x00\x01", 256))
    metrics = b"\xdf" + struct.pack(">I", size // 10) + b"".join(b"\xa8%08x\x00" % number for number in range(size // 10))
    payloads = {
        "checksums": _grown(applied, "checksums", _array(b"\xcd\x01\x01", size // 3)),
        "names": _grown({"type": "Cordon", "epoch": 1}, "names", _array(b"\xa2xy", size // 3)),
        "stats": _grown({"type": "Heartbeat"}, "stats", metrics),
        "buckets": _grown(publish, "manifest", _grown({}, "buckets", _array(b"\x92\x00\x90", size // 3))),
        "rollouts": _grown({"type": "GroupResult"}, "group", _grown(group, "rollouts", _array(crowded, size // len(crowded)))),
        "spans": _grown(
            {"type": "GroupResult"},
            "group",
            _grown(group, "rollouts", _array(_grown(rollout, "spans", _array(b"\x93\x00\x00\x01", size // 4)), 1)),
        ),
        "unknown": _grown({"type": "StatusRequest"}, "unknown", _array(b"\x80", size)),
        "untyped": _array(b"\x80", size),
    }
    return {name: sealed(payload) for name, payload in payloads.items()}


def packed(tree: Any) -> bytes:
    """MessagePack by the independent implementation."""
    payload = msgpack.packb(tree)
    assert payload is not None
    return payload


def _array(item: bytes, count: int) -> bytes:
    return b"\xdd" + struct.pack(">I", count) + item * count


def _grown(tree: dict[str, Any], key: str, value: bytes) -> bytes:
    """`tree` packed, with an encoded value under this key, at its end."""
    return packed({name: item for name, item in tree.items() if name != key} | {key: None})[:-1] + value

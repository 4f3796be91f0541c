"""A delta turns one version of a chunk into the next, exactly; hostile bytes change nothing."""

from __future__ import annotations

import random
import struct
import tracemalloc

import numpy as np
import pytest
import torch
from prolong.common.errors import WeightsError
from prolong.common.weights.pull.delta import BITMAP, GAPS, apply_delta, encode_delta

WIDTHS = [1, 2, 4, 8]
SIZE = 1 << 14


def chunk(seed: int, num_bytes: int = SIZE) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, num_bytes, dtype=np.uint8))


def changed(base: torch.Tensor, width: int, positions: list[int] | np.ndarray) -> torch.Tensor:
    """A copy in which the elements at `positions` have other bytes."""
    target = base.clone()
    target.numpy().reshape(-1, width)[positions, 0] ^= 1
    return target


def check(base: torch.Tensor, target: torch.Tensor, width: int) -> bytes:
    """Encode, apply, apply again; returns the payload."""
    before = base.clone()
    payload = encode_delta(base, target, width)
    assert payload is not None
    assert torch.equal(base, before)
    held = base.clone()
    for _ in range(2):
        apply_delta(held, payload, width)
        assert torch.equal(held, target)
    return payload


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("share", [0.0002, 0.002, 0.02, 0.1, 0.3, 0.6])
def test_any_share_of_changes_comes_back_exactly_and_smaller_than_the_chunk(width: int, share: float) -> None:
    base = chunk(0)
    positions = np.flatnonzero(np.random.default_rng(1).random(SIZE // width) < share)
    payload = check(base, changed(base, width, positions), width)
    assert len(payload) < SIZE


@pytest.mark.parametrize("width", WIDTHS)
def test_changes_at_the_ends_and_far_apart(width: int) -> None:
    base, last = chunk(0), SIZE // width - 1
    for positions in ([0], [last], [0, last], [254], [255], [256], [0, 255, 256, 511, 512, 768], [0, 1, 2, 3]):
        payload = check(base, changed(base, width, positions), width)
        assert len(payload) <= 5 + len(positions) * (1 + width) + last // 255 + 1


def test_an_equal_chunk_is_an_empty_payload() -> None:
    assert encode_delta(chunk(0), chunk(0), 2) == b""


@pytest.mark.parametrize("width", WIDTHS)
def test_another_chunk_is_sent_in_full(width: int) -> None:
    assert encode_delta(chunk(0), chunk(1), width) is None


def test_a_nan_and_a_negative_zero_are_bits_like_any_others() -> None:
    base = torch.tensor([0.0, float("nan"), 1.0, 2.0] * 64).view(torch.uint8)
    target = base.clone()
    target.view(torch.float32)[0] = -0.0
    payload = check(base, target, 4)
    assert len(payload) == 5 + 1 + 4


MALFORMED = {
    "header alone": struct.pack("<BI", GAPS, 0),
    "short header": b"\x02\x00",
    "unknown kind": struct.pack("<BI", 9, 1) + b"\0\0\0",
    "more elements than bytes": struct.pack("<BI", GAPS, 5) + b"\0" + b"vv",
    "count of four billion": struct.pack("<BI", GAPS, 0xFFFFFFFF) + b"\0" * 64,
    "fewer gaps than values": struct.pack("<BI", GAPS, 2) + b"\0" + b"vvvv",
    "more gaps than values": struct.pack("<BI", GAPS, 1) + b"\0\0" + b"vv",
    "past the end": struct.pack("<BI", GAPS, 1) + b"\xff" * (SIZE // 2 // 255) + b"\xfe" + b"vv",
    "far past the end": struct.pack("<BI", GAPS, 1) + b"\xff" * (SIZE - 100) + b"\0" + b"vv",
    "short bitmap": struct.pack("<BI", BITMAP, 1) + b"\x80" + b"vv",
    "bitmap of another count": struct.pack("<BI", BITMAP, 1) + b"\xff" * (SIZE // 2 // 8) + b"vv",
    "as large as the chunk": struct.pack("<BI", BITMAP, SIZE // 2) + b"\xff" * (SIZE - 5),
}


@pytest.mark.parametrize("payload", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_payload_is_refused_and_writes_nothing(payload: bytes) -> None:
    held = chunk(0)
    with pytest.raises(WeightsError):
        apply_delta(held, payload, 2)
    assert torch.equal(held, chunk(0))


def test_random_bytes_and_bit_flips_never_write_outside_of_the_chunk() -> None:
    rng = random.Random(0)
    space = chunk(0, 3 * SIZE)
    before = space.clone()
    base = space[SIZE : 2 * SIZE]
    rates = (0.001, 0.02, 0.2)
    honest = [
        encode_delta(base, changed(base, 2, np.flatnonzero(chunk(2).numpy()[: SIZE // 2] < 256 * rate)), 2) for rate in rates
    ]
    for _ in range(3000):
        payload = bytearray(rng.choice(honest) or b"")
        if rng.random() < 0.3:
            payload = bytearray(payload[:5] + rng.randbytes(rng.randrange(200)))
        for _ in range(rng.randrange(1, 4)):
            payload[rng.randrange(min(len(payload), rng.choice([5, 5000])))] ^= 1 << rng.randrange(8)
        try:
            apply_delta(base, bytes(payload[: rng.randrange(len(payload) + 1)] if rng.random() < 0.2 else payload), 2)
        except WeightsError:
            continue
    assert torch.equal(space[:SIZE], before[:SIZE])
    assert torch.equal(space[2 * SIZE :], before[2 * SIZE :])


def test_hostile_bytes_take_no_more_memory_than_a_few_times_the_chunk() -> None:
    size = 1 << 20
    held = torch.zeros(size, dtype=torch.uint8)
    tracemalloc.start()
    for kind in (BITMAP, GAPS):
        for filler in (b"\0", b"\xff"):
            tracemalloc.reset_peak()
            with pytest.raises(WeightsError):
                apply_delta(held, struct.pack("<BI", kind, 7) + filler * (size - 100), 2)
            assert tracemalloc.get_traced_memory()[1] < 40 * size
    tracemalloc.stop()

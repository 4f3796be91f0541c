"""A delta turns one version of a chunk into the next, exactly; hostile bytes change nothing."""

from __future__ import annotations

import random
import struct
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from isal import igzip_lib
from prolong.common.errors import WeightsError
from prolong.common.weights.pull.delta import DEFLATED, RAW, ZERO, apply_delta, encode_delta

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
    """Encode and apply; returns the payload."""
    before = base.clone()
    payload = encode_delta(base, target, width)
    assert payload is not None
    assert torch.equal(base, before)
    held = base.clone()
    apply_delta(held, payload, width)
    assert torch.equal(held, target)
    return payload


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("share", [0.0002, 0.002, 0.02, 0.1, 0.3, 0.6, 0.95])
def test_any_share_of_changes_comes_back_exactly_and_smaller_than_the_chunk(width: int, share: float) -> None:
    base = chunk(0)
    positions = np.flatnonzero(np.random.default_rng(1).random(SIZE // width) < share)
    payload = check(base, changed(base, width, positions), width)
    assert len(payload) < SIZE


@pytest.mark.parametrize("width", WIDTHS)
def test_changes_at_the_ends_and_far_apart(width: int) -> None:
    base, last = chunk(0), SIZE // width - 1
    for positions in ([0], [last], [0, last], [254], [255], [256], [0, 255, 256, 511, 512, 768], [0, 1, 2, 3], [600, 1500]):
        payload = check(base, changed(base, width, positions), width)
        assert len(payload) <= 4 + 5 * (1 + width) + 2 * len(positions) + last // 255 + 1


@pytest.mark.parametrize("width", WIDTHS)
def test_differences_of_any_size_and_sign_come_back(width: int) -> None:
    dtype = np.dtype(f"<u{width}")
    half = 1 << (8 * width - 1)
    moves = [1, -1, 2, -2, 127, -128, 128, half - 1, half, -half + 1, 3 << (8 * width - 4)]
    base = chunk(0)
    for share in (1, 2, 9):
        target = base.clone()
        elements = target.numpy().view(dtype)[: SIZE // width // 2 : share]
        elements += np.array([move % (2 * half) for move in moves], dtype)[np.arange(elements.size) % len(moves)]
        check(base, target, width)


def test_an_equal_chunk_is_an_empty_payload() -> None:
    assert encode_delta(chunk(0), chunk(0), 2) == b""


@pytest.mark.parametrize("width", WIDTHS)
def test_another_chunk_is_sent_in_full(width: int) -> None:
    assert encode_delta(chunk(0), chunk(1), width) is None


@given(
    st.integers(0, 1 << 30),
    st.sampled_from(WIDTHS),
    st.integers(1, 300),
    st.floats(0, 1),
    st.sampled_from([1, 2, 200, 1 << 14, 1 << 40]),
)
def test_whatever_changed_comes_back_or_goes_in_full(seed: int, width: int, units: int, share: float, reach: int) -> None:
    """Chunks of 16 to 4,800 bytes, in which a share of the elements moves by up to `reach`, either way."""
    rng = np.random.default_rng(seed)
    base = torch.from_numpy(rng.integers(0, 256, 16 * units, dtype=np.uint8))
    target = base.clone()
    elements = target.numpy().view(f"<u{width}")
    moves = rng.integers(-reach, reach, elements.size, endpoint=True).astype(elements.dtype)
    elements += np.where(rng.random(elements.size) < share, moves, 0).astype(elements.dtype)
    payload = encode_delta(base, target, width)
    if payload is None:
        return
    assert len(payload) < base.numel()
    apply_delta(base, payload, width)
    assert torch.equal(base, target)


def test_steps_of_all_elements_need_no_positions_and_a_byte_each_at_most() -> None:
    base = torch.randn(4096, generator=torch.Generator().manual_seed(0))
    target = base * (1 + 1e-6)
    payload = check(base.view(torch.uint8), target.view(torch.uint8), 4)
    assert payload[:4] == bytes(4)
    assert len(payload) < 4096 + 100


def test_a_nan_and_a_negative_zero_are_bits_like_any_others() -> None:
    base = torch.tensor([0.0, float("nan"), 1.0, 2.0] * 64).view(torch.uint8)
    target = base.clone()
    target.view(torch.float32)[:2] = torch.tensor([-0.0, float("-inf")])
    check(base, target, 4)


def part(how: int, stored: bytes, size: int | None = None) -> bytes:
    return struct.pack("<BI", how, len(stored) if size is None else size) + stored


def payload_of(count: int, *parts: bytes) -> bytes:
    return struct.pack("<I", count) + b"".join(parts)


ONE = part(RAW, b"\x02")
NONE = part(ZERO, b"", 1)
BOMB = part(DEFLATED, igzip_lib.compress(bytes(1 << 26), 1)[: SIZE // 4])
MALFORMED = {
    "header alone": payload_of(1),
    "short header": b"\x02\x00",
    "count of four billion": payload_of(0xFFFFFFFF, ONE, ONE, ONE),
    "no planes": payload_of(1, ONE),
    "a plane too few": payload_of(1, ONE, ONE),
    "a plane too many": payload_of(1, ONE, ONE, ONE, ONE),
    "unknown kind of part": payload_of(1, part(7, b"\0"), ONE, ONE),
    "part past the end": payload_of(1, ONE, ONE, part(RAW, b"\0", 2)),
    "part of four billion bytes": payload_of(1, ONE, ONE, part(RAW, b"\0", 0xFFFFFFFF)),
    "zeros of four billion bytes": payload_of(1, ONE, ONE, part(ZERO, b"", 0xFFFFFFFF)),
    "fewer gaps than elements": payload_of(2, ONE, part(RAW, b"vv"), part(RAW, b"vv")),
    "more gaps than elements": payload_of(1, part(RAW, b"\0\0"), ONE, NONE),
    "far gaps alone": payload_of(1, part(RAW, b"\xff"), ONE, NONE),
    "no gaps": payload_of(1, part(RAW, b""), ONE, NONE),
    "past the end": payload_of(1, part(RAW, b"\xff" * (SIZE // 2 // 255) + b"\xfe"), ONE, NONE),
    "far past the end": payload_of(1, part(RAW, b"\xff" * (SIZE - 100) + b"\0"), ONE, NONE),
    "short bitmap": payload_of(SIZE // 4, part(RAW, b"\xff" * 9), part(ZERO, b"", SIZE // 4), part(ZERO, b"", SIZE // 4)),
    "bitmap of another count": payload_of(
        SIZE // 4, part(RAW, b"\xfe" * (SIZE // 16)), part(ZERO, b"", SIZE // 4), part(ZERO, b"", SIZE // 4)
    ),
    "short plane": payload_of(0, part(RAW, b"v" * 9), part(ZERO, b"", SIZE // 2)),
    "not deflated": payload_of(1, part(DEFLATED, b"\xff" * 20), ONE, NONE),
    "deflated and more": payload_of(1, part(DEFLATED, igzip_lib.compress(b"\0") + b"more"), ONE, NONE),
    "deflated and cut off": payload_of(
        0, part(DEFLATED, igzip_lib.compress(bytes(SIZE // 2))[:-2]), part(ZERO, b"", SIZE // 2)
    ),
    "inflates to one byte more": payload_of(
        0, part(DEFLATED, igzip_lib.compress(bytes(SIZE // 2 + 1))), part(ZERO, b"", SIZE // 2)
    ),
    "bomb of gaps": payload_of(1, BOMB, ONE, NONE),
    "bomb of values": payload_of(0, BOMB, BOMB),
    "as large as the chunk": payload_of(0, part(RAW, b"v" * (SIZE // 2)), part(RAW, b"v" * (SIZE // 2 - 14))),
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
    rates = (0.01, 0.1, 0.2, 0.5)
    honest = [
        encode_delta(base, changed(base, 2, np.flatnonzero(chunk(2).numpy()[: SIZE // 2] < 256 * rate)), 2) for rate in rates
    ]
    for _ in range(3000):
        payload = bytearray(rng.choice(honest) or b"")
        if rng.random() < 0.3:
            payload = bytearray(payload[:9] + rng.randbytes(rng.randrange(200)))
        for _ in range(rng.randrange(1, 4)):
            payload[rng.randrange(min(len(payload), rng.choice([9, 40, 5000])))] ^= 1 << rng.randrange(8)
        try:
            apply_delta(base, bytes(payload[: rng.randrange(len(payload) + 1)] if rng.random() < 0.2 else payload), 2)
        except WeightsError:
            continue
    assert torch.equal(space[:SIZE], before[:SIZE])
    assert torch.equal(space[2 * SIZE :], before[2 * SIZE :])


def test_bombs_take_no_more_memory_than_a_few_times_the_chunk() -> None:
    size = 1 << 20
    held = torch.zeros(size, dtype=torch.uint8)
    bomb = part(DEFLATED, igzip_lib.compress(bytes(1 << 28), 1))
    assert len(bomb) < size / 2
    tracemalloc.start()
    for count in (0, 1, size // 2):
        for gaps in (bomb, part(RAW, b"\xff" * (size // 600)), part(ZERO, b"", size // 2)):
            tracemalloc.reset_peak()
            with pytest.raises(WeightsError):
                apply_delta(held, payload_of(count, gaps, bomb, bomb), 2)
            assert tracemalloc.get_traced_memory()[1] < 20 * size
    tracemalloc.stop()
    assert not held.any()

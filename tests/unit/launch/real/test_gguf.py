"""GGUF files are read as their format says, weight by weight, and damaged ones are refused."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from prolong.common.errors import ModelError
from prolong.launch.real.gguf import GgufFile

from tests.support.gguf_files import float32_tensors, tiny_weights, write_gguf


def half(value: float) -> tuple[bytes, float]:
    """The bytes of a float16 number, and what they mean."""
    packed = struct.pack("<e", value)
    return packed, struct.unpack("<e", packed)[0]


def naive_q8_0(rng: np.random.Generator) -> tuple[bytes, list[float]]:
    """A block, and its weights."""
    scale_bytes, scale = half(0.013)
    levels = [int(level) for level in rng.integers(-128, 128, 32)]
    return scale_bytes + struct.pack("<32b", *levels), [level * scale for level in levels]


def naive_q4_1(rng: np.random.Generator) -> tuple[bytes, list[float]]:
    """A block, and its weights: byte i holds weight i in its low half, and weight 16 + i in its high half."""
    (scale_bytes, scale), (least_bytes, least) = half(0.07), half(-0.4)
    levels = [int(level) for level in rng.integers(0, 16, 32)]
    packed = bytes(levels[i] | levels[16 + i] << 4 for i in range(16))
    return scale_bytes + least_bytes + packed, [level * scale + least for level in levels]


@pytest.mark.parametrize(("kind", "block"), [(8, naive_q8_0), (3, naive_q4_1)], ids=["Q8_0", "Q4_1"])
def test_quantized_blocks_mean_what_a_plain_loop_says(tmp_path: Path, kind: int, block) -> None:
    rng = np.random.default_rng(1)
    blocks = [block(rng) for _ in range(6)]
    content = b"".join(content for content, _ in blocks)
    path = write_gguf(tmp_path / "m.gguf", {"first": (0, (32,), bytes(128)), "w": (kind, (3, 64), content)})
    expected = np.array([weights for _, weights in blocks]).reshape(3, 64)
    read = GgufFile(path).tensor("w")
    assert read.dtype == np.float32
    np.testing.assert_allclose(read, expected, rtol=1e-6)


def test_plain_tensors_and_metadata_come_back(tmp_path: Path) -> None:
    weights = tiny_weights()
    file = GgufFile(write_gguf(tmp_path / "m.gguf", float32_tensors(weights)))
    for name, expected in weights.items():
        np.testing.assert_array_equal(file.tensor(name), expected)
    assert file.metadata["llama.block_count"] == 2
    assert file.metadata["tokenizer.ggml.merges"] == ["a n", "1 2"]
    halves = np.arange(64, dtype="<f2")
    stored = GgufFile(write_gguf(tmp_path / "h.gguf", {"h": (1, (64,), halves.tobytes())}))
    np.testing.assert_array_equal(stored.tensor("h"), halves.astype(np.float32))


def test_every_cut_of_a_file_is_refused(tmp_path: Path) -> None:
    whole = write_gguf(tmp_path / "m.gguf", float32_tensors({"w": np.ones((2, 32), np.float32)})).read_bytes()
    for length in range(len(whole)):
        (tmp_path / "cut.gguf").write_bytes(whole[:length])
        with pytest.raises(ModelError):
            GgufFile(tmp_path / "cut.gguf").tensor("w")


@pytest.mark.parametrize(
    ("tensors", "sentence"),
    [
        ({"w": (2, (32,), bytes(18))}, "w is stored in the GGUF type 2; expected F32, F16, Q4_1 or Q8_0"),
        ({"w": (0, (33,), bytes(132))}, "w has 33 weights; expected a multiple of 32"),
        ({"v": (0, (32,), bytes(128))}, "has no tensor w"),
        ({"w": (0, (1, 1, 1, 1, 32), bytes(128))}, "w has 5 dimensions"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, tensors: dict, sentence: str) -> None:
    path = write_gguf(tmp_path / "m.gguf", tensors)
    with pytest.raises(ModelError, match=sentence):
        GgufFile(path).tensor("w")


@pytest.mark.parametrize("alignment", [0, "32"])
def test_an_alignment_that_cannot_be_is_refused(tmp_path: Path, alignment: object) -> None:
    path = write_gguf(tmp_path / "m.gguf", {"w": (0, (32,), bytes(128))}, {"general.alignment": alignment})
    with pytest.raises(ModelError, match=r"general\.alignment = .*; expected a positive number of bytes"):
        GgufFile(path)


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(ModelError, match="is not a GGUF file, or is damaged: it begins with"):
        GgufFile(tmp_path / "m.gguf")
    with pytest.raises(ModelError, match="is not a GGUF file"):
        GgufFile(tmp_path / "missing.gguf")

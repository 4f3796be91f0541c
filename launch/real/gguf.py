"""A GGUF file, the format of llama.cpp, read with numpy: its metadata, and its tensors as float32.

    magic, version, counts | (key, type, value)... | (name, shape, type, offset)... | padding | tensors, each aligned

Of the many ways to store a tensor those of the file that is used here are read: plain numbers, and the blocks of 32 weights
with a scale each (Q8_0: 8 bits and the scale; Q4_1: 4 bits, the scale and the least weight).
Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...common.errors import ModelError

MAGIC, VERSIONS = b"GGUF", (2, 3)
BLOCK = 32  # weights of a quantized block
MAX_ITEMS = 10_000_000  # of a list or a text: more is a damaged file
_ALIGNMENT = "general.alignment"
_STRING, _ARRAY = 8, 9
# type of a value of the metadata -> its form for struct
_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
Value = int | float | bool | str | list["Value"]


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """A tensor's place in the file. shape: as torch has it, the last dimension contiguous."""

    shape: tuple[int, ...]
    kind: int
    offset: int  # from the beginning of the tensors


class GgufFile:
    """One file, mapped into memory."""

    def __init__(self, path: Path) -> None:
        """Raises: ModelError for a file that is not GGUF, or is damaged."""
        self.path = path
        try:
            with path.open("rb") as file:
                self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            self._at = 0
            self.metadata, self.tensors = self._read_header()
            alignment = self.metadata.get(_ALIGNMENT, 32)
            if not isinstance(alignment, int) or alignment < 1:
                raise ValueError(f"{_ALIGNMENT} = {alignment!r}; expected a positive number of bytes")
        except (OSError, ValueError, KeyError, struct.error) as error:
            raise ModelError(f"{path} is not a GGUF file, or is damaged: {error}; fetch it again") from error
        self._data = -(-self._at // alignment) * alignment

    def tensor(self, name: str) -> np.ndarray:
        """The weights of a tensor, float32. Raises: ModelError."""
        if name not in self.tensors:
            raise ModelError(f"{self.path} has no tensor {name}; expected the weights of a Llama model")
        tensor = self.tensors[name]
        if tensor.kind not in _DECODERS:
            raise ModelError(f"{self.path}: {name} is stored in the GGUF type {tensor.kind}; expected F32, F16, Q4_1 or Q8_0")
        size, decode = _DECODERS[tensor.kind]
        count = math.prod(tensor.shape)
        num_bytes = count // BLOCK * size
        start = self._data + tensor.offset
        if start + num_bytes > len(self._bytes):
            raise ModelError(f"{self.path} ends inside of {name}: it was cut off; fetch it again")
        stored = np.frombuffer(self._bytes, np.uint8, num_bytes, start) if count % BLOCK == 0 else None
        if stored is None:
            raise ModelError(f"{self.path}: {name} has {count} weights; expected a multiple of {BLOCK}")
        return decode(stored.reshape(-1, size)).reshape(tensor.shape)

    def _read_header(self) -> tuple[dict[str, Value], dict[str, GgufTensor]]:
        magic, version = self._take(4), self._number("<I")
        if magic != MAGIC or version not in VERSIONS:
            raise ValueError(f"it begins with {magic!r} and version {version}; expected {MAGIC!r} and version 3")
        num_tensors, num_values = int(self._number("<Q")), int(self._number("<Q"))
        metadata = {}
        for _ in range(num_values):
            key = self._text()
            metadata[key] = self._value(int(self._number("<I")))
        return metadata, dict(self._tensor_place() for _ in range(num_tensors))

    def _tensor_place(self) -> tuple[str, GgufTensor]:
        name, num_dimensions = self._text(), int(self._number("<I"))
        if num_dimensions > 4:
            raise ValueError(f"{name} has {num_dimensions} dimensions; expected 4 at most")
        # the first dimension of the file is the contiguous one
        shape = tuple(int(self._number("<Q")) for _ in range(num_dimensions))[::-1]
        return name, GgufTensor(shape, int(self._number("<I")), int(self._number("<Q")))

    def _take(self, count: int) -> bytes:
        if self._at + count > len(self._bytes):
            raise ValueError("it ends inside of its header")
        self._at += count
        return self._bytes[self._at - count : self._at]

    def _number(self, form: str) -> int | float | bool:
        return struct.unpack(form, self._take(struct.calcsize(form)))[0]

    def _length(self) -> int:
        length = int(self._number("<Q"))
        if length > MAX_ITEMS:
            raise ValueError(f"a text or a list of {length} items")
        return length

    def _text(self) -> str:
        return self._take(self._length()).decode()

    def _value(self, kind: int) -> Value:
        if kind == _STRING:
            return self._text()
        if kind != _ARRAY:
            return self._number(_SCALARS[kind])
        item = int(self._number("<I"))
        if item == _ARRAY:
            raise ValueError("a list of lists")
        return [self._value(item) for _ in range(self._length())]


def _plain(form: str) -> Callable[[np.ndarray], np.ndarray]:
    return lambda blocks: blocks.reshape(-1).view(form).astype(np.float32)


def _halves(blocks: np.ndarray, first: int) -> np.ndarray:
    """The float16 number at byte `first` of each block, [num_blocks, 1] float32."""
    return np.ascontiguousarray(blocks[:, first : first + 2]).view("<f2").astype(np.float32)


def _q8_0(blocks: np.ndarray) -> np.ndarray:
    """A block: scale, 32 signed bytes."""
    return np.ascontiguousarray(blocks[:, 2:]).view(np.int8).astype(np.float32) * _halves(blocks, 0)


def _q4_1(blocks: np.ndarray) -> np.ndarray:
    """A block: scale, least weight, 16 bytes; the low halves of the bytes are weights 0 to 15, the high ones 16 to 31."""
    packed = blocks[:, 4:]
    levels = np.concatenate([packed & 0x0F, packed >> 4], axis=1)
    return levels.astype(np.float32) * _halves(blocks, 0) + _halves(blocks, 2)


# GGUF's number of a type -> (bytes of BLOCK weights, what turns [num_blocks, bytes] uint8 into float32)
_DECODERS: dict[int, tuple[int, Callable[[np.ndarray], np.ndarray]]] = {
    0: (4 * BLOCK, _plain("<f4")),
    1: (2 * BLOCK, _plain("<f2")),
    3: (4 + BLOCK // 2, _q4_1),
    8: (2 + BLOCK, _q8_0),
}

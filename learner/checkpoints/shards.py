"""Tensors in files of shards: every rank writes the boxes that it holds, a reader puts any other box together from them.

    NAME-00002-of-00004.safetensors   the boxes of rank 2; the header says where each of them begins in its tensor

torch.distributed.checkpoint's own reader of safetensors understands these files. Its writer would exchange pickles between
the ranks, and its reader takes what a missing file held for whatever the memory contained (docs/decisions/022).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate

# the key of the header under which torch.distributed.checkpoint looks for offsets
SHARDING, OFFSETS, SHAPE = "DCP_SHARDING_INFO", "saved_offsets", "shape"


@dataclass(frozen=True, slots=True)
class Box:
    """A part of a tensor: where it begins, and how far it goes, in every dimension."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]

    @property
    def volume(self) -> int:
        """The number of elements; 1 for a scalar."""
        return math.prod(self.sizes)

    def overlap(self, other: Box) -> Box:
        """The part that both have; of volume 0 if there is none."""
        begins = tuple(map(max, self.offsets, other.offsets))
        ends = (min(a + m, b + n) for a, m, b, n in zip(self.offsets, self.sizes, other.offsets, other.sizes, strict=True))
        return Box(begins, tuple(max(0, end - begin) for begin, end in zip(begins, ends, strict=True)))

    def within(self, outer: Box) -> tuple[slice, ...]:
        """The indices of this box in a tensor that holds `outer`."""
        starts = (here - there for here, there in zip(self.offsets, outer.offsets, strict=True))
        return tuple(slice(start, start + size) for start, size in zip(starts, self.sizes, strict=True))


def whole_box(shape: Iterable[int]) -> Box:
    """The box of a whole tensor."""
    sizes = tuple(shape)
    return Box((0,) * len(sizes), sizes)


def box_of(tensor: Tensor) -> Box:
    """The part of a tensor that this rank holds."""
    if not isinstance(tensor, DTensor):
        return whole_box(tensor.shape)
    (chunk,) = tensor.__create_chunk_list__()
    return Box(tuple(chunk.offsets), tuple(chunk.sizes))


def local_part(tensor: Tensor) -> Tensor:
    """The elements of a tensor that this rank holds, without a copy."""
    return tensor.to_local().detach() if isinstance(tensor, DTensor) else tensor.detach()


def is_first_copy(tensor: Tensor, rank: int) -> bool:
    """Whether no rank before this one holds the same part of the tensor; all hold the same of one that is not sharded."""
    if not isinstance(tensor, DTensor):
        return rank == 0
    coordinate = tensor.device_mesh.get_coordinate() or ()
    return not any(at for at, place in zip(coordinate, tensor.placements, strict=True) if isinstance(place, Replicate))


@dataclass(frozen=True, slots=True)
class Shard:
    """A part of a tensor, on the CPU, and where it begins."""

    part: Tensor
    offsets: tuple[int, ...]


def shard_path(folder: Path, name: str, rank: int, ranks: int) -> Path:
    """Return the path of a rank's file."""
    return folder / f"{name}-{rank:05d}-of-{ranks:05d}.safetensors"


def write_shards(path: Path, shards: Mapping[str, Shard], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Write the shards of one rank. `shapes`: of all tensors, also of those that this rank holds nothing of.

    Raises: OSError, SafetensorError.
    """
    placed = {name: {SHAPE: shape} for name, shape in shapes.items()}
    placed |= {name: {OFFSETS: shard.offsets, SHAPE: shapes[name]} for name, shard in shards.items()}
    # one key: the order of several is not always the same, and files of the same content have the same digest
    metadata = {SHARDING: json.dumps(placed, sort_keys=True)}
    save_file({name: shard.part for name, shard in shards.items()}, path, metadata=metadata)


class MissingPart(Exception):
    """The files do not hold all of a tensor."""


@dataclass(frozen=True, slots=True)
class _Piece:
    """A box of a tensor, and the open file that holds it."""

    file: safe_open
    box: Box


class StoredTensors:
    """The tensors of some safetensors files by name, whether a file holds them whole or ranks hold parts of them.

    Only what is asked for is read.

    Example:
        with StoredTensors(files) as stored:
            stored.fill("exp_avg/lm_head.weight", moment)  # which may be sharded in any other way
    """

    def __init__(self, files: Iterable[Path]) -> None:
        """Open the files and read their headers. Raises: OSError, SafetensorError."""
        self._files = ExitStack()
        self._pieces: dict[str, list[_Piece]] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        try:
            for path in files:
                self._open(path)
        except BaseException:
            self._files.close()
            raise

    def _open(self, path: Path) -> None:
        file = self._files.enter_context(safe_open(path, "pt"))
        placed = json.loads((file.metadata() or {}).get(SHARDING, "{}"))
        self._shapes |= {name: tuple(where[SHAPE]) for name, where in placed.items()}
        # safe_open gives no mapping to iterate over
        for name in file.keys():  # noqa: SIM118
            sizes = tuple(file.get_slice(name).get_shape())
            where = placed.get(name, {})
            box = Box(tuple(where.get(OFFSETS, (0,) * len(sizes))), sizes)
            pieces = self._pieces.setdefault(name, [])
            # ranks may hold copies of each other's parts
            if all(piece.box != box for piece in pieces):
                pieces.append(_Piece(file, box))
            self._shapes.setdefault(name, sizes)

    def __enter__(self) -> StoredTensors:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._files.close()

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """The shape of every tensor, by name; also of those that are in none of the files, but in those of other ranks."""
        return self._shapes

    def read(self, name: str, box: Box | None = None) -> Tensor:
        """Read a box of a tensor; by default all of it. Raises: MissingPart, SafetensorError."""
        wanted = whole_box(self._shapes[name]) if box is None else box
        result: Tensor | None = None
        found = 0
        for piece in self._pieces.get(name, []):
            common = piece.box.overlap(wanted)
            if common.volume == 0:
                continue
            part = piece.file.get_slice(name)[common.within(piece.box)] if common.sizes else piece.file.get_tensor(name)
            if common == wanted:
                return part
            if result is None:
                result = torch.empty(wanted.sizes, dtype=part.dtype)
            result[common.within(wanted)] = part
            found += common.volume
        if result is None or found < wanted.volume:
            raise MissingPart(f"{wanted.volume - found} of {wanted.volume} numbers of {name} are in no file")
        return result

    @torch.no_grad()
    def fill(self, name: str, target: Tensor) -> None:
        """Fill the part of `target` that this rank holds. Raises: as `read`."""
        local, box = local_part(target), box_of(target)
        if box.volume:
            local.copy_(self.read(name, box))

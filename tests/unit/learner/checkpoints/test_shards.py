"""Tensors in files of shards: boxes, the reader, and what it refuses."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import pytest
import torch
from prolong.learner.checkpoints.shards import Box, MissingPart, Shard, StoredTensors, shard_path, whole_box, write_shards
from safetensors import SafetensorError
from torch import Tensor


def cut(tensor: Tensor, ranks: int) -> list[tuple[Box, Tensor]]:
    """Parts of rows as FSDP2 cuts them: all of one size but the last ones, which may be smaller or empty."""
    rows = -(-len(tensor) // ranks)
    parts = [tensor[rank * rows : (rank + 1) * rows] for rank in range(ranks)]
    starts = [min(rank * rows, len(tensor)) for rank in range(ranks)]
    zeros = (0,) * (tensor.ndim - 1)
    return [(Box((start, *zeros), tuple(part.shape)), part) for start, part in zip(starts, parts, strict=True)]


def write(folder: Path, tensors: dict[str, Tensor], ranks: int) -> list[Path]:
    """The files of so many ranks."""
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    paths = []
    for rank in range(ranks):
        mine = {name: cut(tensor, ranks)[rank] for name, tensor in tensors.items()}
        shards = {name: Shard(part.contiguous(), box.offsets) for name, (box, part) in mine.items() if box.volume}
        paths.append(shard_path(folder, "policy", rank, ranks))
        write_shards(paths[-1], shards, shapes)
    return paths


@pytest.fixture
def tensors() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = {"matrix": (7, 5), "even": (8, 3), "vector": (5,), "short": (2, 2), "cube": (3, 4, 2)}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 8])
def test_any_box_comes_back_to_the_bit_however_many_ranks_wrote(tmp_path: Path, tensors: dict[str, Tensor], ranks: int) -> None:
    chance = random.Random(ranks)
    with StoredTensors(write(tmp_path, tensors, ranks)) as stored:
        assert stored.shapes == {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        for name, tensor in tensors.items():
            assert torch.equal(stored.read(name), tensor)
            for _ in range(20):
                offsets = tuple(chance.randrange(size) for size in tensor.shape)
                sizes = tuple(chance.randint(1, size - at) for at, size in zip(offsets, tensor.shape, strict=True))
                box = Box(offsets, sizes)
                assert torch.equal(stored.read(name, box), tensor[box.within(whole_box(tensor.shape))])


def test_scalars_half_precision_and_whole_files_are_read_too(tmp_path: Path) -> None:
    step, weight = torch.tensor(7.0), torch.randn(3, 2).to(torch.bfloat16)
    path = tmp_path / "one.safetensors"
    write_shards(path, {"step": Shard(step, ()), "weight": Shard(weight, (0, 0))}, {"step": (), "weight": (3, 2)})
    target = torch.zeros(3, 2)
    with StoredTensors([path]) as stored:
        assert stored.read("step").item() == 7.0
        assert torch.equal(stored.read("weight"), weight)
        stored.fill("weight", target)
    assert torch.equal(target, weight.float())


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_a_missing_file_is_noticed_by_whoever_needs_it(tmp_path: Path, tensors: dict[str, Tensor], lost: int) -> None:
    """torch's own reader takes a missing last part for a smaller tensor, and leaves the memory of others as it was."""
    paths = write(tmp_path, tensors, 3)
    paths.pop(lost)
    with StoredTensors(paths) as stored:
        assert stored.shapes["matrix"] == (7, 5)
        with pytest.raises(MissingPart, match=r"numbers of matrix are in no file"):
            stored.read("matrix")
        kept = (lost + 1) % 3
        box, part = cut(tensors["matrix"], 3)[kept]
        assert torch.equal(stored.read("matrix", box), part)


def test_a_tensor_of_which_no_file_is_here_is_known_and_missing(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    last = write(tmp_path, tensors, 4)[-1]
    with StoredTensors([last]) as stored:
        assert "short" in stored.shapes
        with pytest.raises(MissingPart, match="4 of 4 numbers of short"):
            stored.read("short")


def test_copies_that_ranks_hold_of_each_other_count_once(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    first, second = write(tmp_path, tensors, 2)
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(first.read_bytes())
    with StoredTensors([first, copy, second]) as stored:
        assert torch.equal(stored.read("matrix"), tensors["matrix"])
    with StoredTensors([first, copy]) as stored, pytest.raises(MissingPart):
        stored.read("matrix")


def test_a_cut_file_is_refused(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    first, second = write(tmp_path, tensors, 2)
    second.write_bytes(second.read_bytes()[:-8])
    with pytest.raises(SafetensorError):
        StoredTensors([first, second])


def test_files_of_the_same_content_have_the_same_digest(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    digests = set()
    for name in "abc":
        (tmp_path / name).mkdir()
        shuffled = dict(random.Random(name).sample(sorted(tensors.items()), len(tensors)))
        digests.add(hashlib.sha256(write(tmp_path / name, shuffled, 2)[0].read_bytes()).hexdigest())
    assert len(digests) == 1

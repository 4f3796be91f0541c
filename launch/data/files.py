"""Prompt files that `prolong data convert` and `prolong data puzzles` write."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ...common.data.records import DataRecord
from ...common.errors import UserError
from ...common.files import atomic_replacement

COLUMNS = ("uid", "prompt", "domain", "task", "verifier", "answer", "gold")  # of a parquet file
GROUP_ROWS = 1024  # rows that a parquet file keeps together


@contextmanager
def record_writer(path: Path) -> Iterator[Callable[[DataRecord], None]]:
    """Yield a function that writes a record: JSONL, or parquet with answers as JSON text. Complete or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        atomic_replacement(path) as scratch,
        _parquet_writer(scratch) if path.suffix == ".parquet" else _line_writer(scratch) as write,
    ):
        yield write


@contextmanager
def _line_writer(path: Path) -> Iterator[Callable[[DataRecord], None]]:
    with path.open("w", encoding="utf-8") as file:

        def write(record: DataRecord) -> None:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")

        yield write


@contextmanager
def _parquet_writer(path: Path) -> Iterator[Callable[[DataRecord], None]]:
    import pyarrow
    import pyarrow.parquet

    schema = pyarrow.schema([(name, pyarrow.string()) for name in COLUMNS])
    waiting: list[DataRecord] = []
    with pyarrow.parquet.ParquetWriter(path, schema) as file:

        def flush() -> None:
            file.write_table(pyarrow.Table.from_pylist(waiting, schema))
            waiting.clear()

        def write(record: DataRecord) -> None:
            waiting.append(record | {"answer": json.dumps(record["answer"], ensure_ascii=False)})
            if len(waiting) >= GROUP_ROWS:
                flush()

        yield write
        flush()


def generate_puzzles(names: list[str], target: Path | None, levels: list[int] | None, count: int, seed: int) -> int:
    """`prolong data puzzles`: list the datasets, or write puzzles; 0. Raises: UserError."""
    from ...verifiers.data import puzzles

    if not names:
        for name in puzzles.datasets():
            print(f"{name:28s} levels {', '.join(map(str, puzzles.levels(name)))}")
        return 0
    if target is None or count < 1:
        raise UserError(f"--out {target}, --count {count}: expected a file to write and at least 1 puzzle")
    made = (puzzles.Entries(name, level, count, seed) for name in names for level in levels or puzzles.levels(name))
    written = 0
    with record_writer(target) as write:
        for entries in made:
            for record in entries:
                write(record)
                written += 1
    print(f"{target}: {written} prompts")
    return 0

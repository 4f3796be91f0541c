"""Prompt files that `prolong data convert` and `prolong data puzzles` write."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from ...common.data.records import DataRecord, read_records
from ...common.errors import DataError, UserError
from ...common.files import atomic_replacement

SHOWN = 20  # bad lines that are listed; the others are counted


def write_records(path: Path, records: Iterable[DataRecord]) -> int:
    """Write JSONL, or parquet (with answers as JSON text), completely or not at all. Returns the number of records."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_replacement(path) as scratch:
        return _write_parquet(scratch, records) if path.suffix == ".parquet" else _write_lines(scratch, records)


def _write_lines(path: Path, records: Iterable[DataRecord]) -> int:
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
            count += 1
    return count


def _write_parquet(path: Path, records: Iterable[DataRecord]) -> int:
    import pyarrow
    import pyarrow.parquet

    flat = [record | {"answer": json.dumps(record["answer"], ensure_ascii=False)} for record in records]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(flat), path)
    return len(flat)


def convert_file(name: str, source: Path, target: Path) -> int:
    """`prolong data convert`: 1 if a line could not be used, or none could. Raises: UserError."""
    from ...verifiers.data.formats import FORMATS

    if name not in FORMATS:
        raise UserError(f"--format {name}: expected one of {', '.join(FORMATS)}")
    if source.resolve() == target.resolve():
        raise UserError(f"IN and OUT are both {source}: give OUT another name")
    bad: list[str] = []
    count = write_records(target, _converted(FORMATS[name], f"{name}/{source.stem}", source, bad))
    print(f"{target}: {count} prompts")
    if bad:
        print_bad_lines(f"{source}: {len(bad)} lines could not be used", bad)
    return 1 if bad or not count else 0


def _converted(mapping: Callable[[DataRecord], DataRecord], prefix: str, source: Path, bad: list[str]) -> Iterator[DataRecord]:
    for number, record in read_records(source):
        try:
            if isinstance(record, DataError):
                raise record
            yield {"uid": f"{prefix}/{number}"} | mapping(record)
        except UserError as error:
            bad.append(f"line {number}: {error}")


def print_bad_lines(title: str, lines: list[str]) -> None:
    """Write `title` and the first SHOWN lines to stderr, and count the others."""
    listed = lines[:SHOWN]
    if len(lines) > SHOWN:
        listed.append(f"... and {len(lines) - SHOWN} more")
    sys.stderr.write("\n  ".join([title, *listed]) + "\n")


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
    print(f"{target}: {write_records(target, (record for entries in made for record in entries))} prompts")
    return 0

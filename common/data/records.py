"""Records of a file of prompts: read line by line or row by row, each with the reason if it is no record."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import DataError

Record = dict[str, Any]
ROWS = 1024  # of a parquet file, in memory at once


def rows(path: Path) -> Iterator[tuple[int, Record | DataError]]:
    """(line or row number from 1, its object or why it is none). Raises DataError for a file that cannot be read at all."""
    if not path.is_file():
        raise DataError(f"{path} does not exist, or is no file")
    yield from _parquet(path) if path.suffix == ".parquet" else _lines(path)


def _lines(path: Path) -> Iterator[tuple[int, Record | DataError]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield number, _parsed(line)


def _parsed(line: bytes) -> Record | DataError:
    try:
        record = json.loads(line)
        if b"\\u" in line and not is_unicode(record):
            return DataError("half of a surrogate pair (such as \\ud83d) in a text: no UTF-8 can hold it")
    except (ValueError, RecursionError) as error:
        return DataError(f"not JSON: {error}")
    return record if isinstance(record, dict) else DataError(f"expected a JSON object, got {type(record).__name__}")


def is_unicode(value: Any) -> bool:
    """Whether all texts of a JSON value can be written as UTF-8: JSON may escape what cannot."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _parquet(path: Path) -> Iterator[tuple[int, Record | DataError]]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        for batch in pyarrow.parquet.ParquetFile(path).iter_batches(ROWS):
            for record in batch.to_pylist():
                number += 1
                yield number, record
    except pyarrow.ArrowException as error:
        raise DataError(f"{path} is not a parquet file: {error}") from error

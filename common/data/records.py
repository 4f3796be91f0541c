"""Records of a data file (JSONL, parquet, a JSON list, CSV), read one by one, each with the reason when it cannot be used."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DataError
from .record_streams import is_json_list, kind_of_file, open_record_file, read_csv, read_json_list

if TYPE_CHECKING:
    import pyarrow

DataRecord = dict[str, Any]  # one JSON object
PARQUET_ROWS = 128  # rows of a parquet file that are in memory at once: one may hold megabytes of tests
LONE_SURROGATE = "half of a surrogate pair (such as \\ud83d) in a text: no UTF-8 can hold it"


def read_records(path: Path) -> Iterator[tuple[int, DataRecord | DataError]]:
    """Yield (number of the line or row, from 1; its object, or why it is not one). Blank lines are skipped, but counted.

    Raises: DataError when the file as a whole cannot be read.
    """
    if not path.is_file():
        raise DataError(f"{path} does not exist or is not a file")
    kind = kind_of_file(path)
    if kind == ".parquet":
        yield from _read_parquet(path)
    elif kind == ".csv" or is_json_list(path):
        for number, element in read_csv(path) if kind == ".csv" else read_json_list(path):
            yield number, _checked(element)
    else:
        yield from _read_lines(path)


def is_unicode(value: Any) -> bool:
    """Whether UTF-8 can hold every text of a JSON value: it cannot hold half of a surrogate pair, which JSON can escape."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _read_lines(path: Path) -> Iterator[tuple[int, DataRecord | DataError]]:
    try:
        with open_record_file(path) as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, _parse_line(line)
    # of a gzip file that is damaged
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def _parse_line(line: bytes) -> DataRecord | DataError:
    try:
        record = json.loads(line)
        # lone surrogates come from an escape, or from the bytes ED A0 80 to ED BF BF, which json.loads lets through
        if (b"\\u" in line or b"\xed" in line) and not is_unicode(record):
            return DataError(LONE_SURROGATE)
    except (ValueError, RecursionError) as error:
        return DataError(f"not JSON: {error}")
    return _object_or_reason(record)


def _checked(element: object) -> DataRecord | DataError:
    return _object_or_reason(element) if is_unicode(element) else DataError(f"bytes that are not UTF-8, or {LONE_SURROGATE}")


def _object_or_reason(record: object) -> DataRecord | DataError:
    return record if isinstance(record, dict) else DataError(f"expected a JSON object, got {type(record).__name__}")


def _read_parquet(path: Path) -> Iterator[tuple[int, DataRecord | DataError]]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(PARQUET_ROWS):
                for record in _batch_records(batch):
                    number += 1
                    yield number, record
    # a file that is cut short or damaged in the middle is an OSError to pyarrow
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path} is not a parquet file, or is damaged after row {number}: {error}") from error


def _batch_records(batch: pyarrow.RecordBatch) -> Iterator[DataRecord | DataError]:
    try:
        yield from batch.to_pylist()
        return
    except UnicodeDecodeError:
        pass  # raised before the first record: pyarrow converts a batch as a whole
    for row in range(batch.num_rows):
        try:
            yield batch.slice(row, 1).to_pylist()[0]
        except UnicodeDecodeError as error:
            yield DataError(f"a text is not UTF-8: {error}")

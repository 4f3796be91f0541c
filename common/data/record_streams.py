"""Record files besides JSONL and parquet: gzipped ones, JSON lists and CSV, read a piece at a time."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from ..errors import DataError

CHUNK_CHARS = 1 << 20
MAX_CELL_CHARS = 1 << 28
_SKIPPED = re.compile(r"[ \t\r\n,]*")


def open_record_file(path: Path) -> IO[bytes]:
    """The bytes of a file, unpacked if its name ends with .gz."""
    return cast("IO[bytes]", gzip.open(path, "rb")) if path.suffix == ".gz" else path.open("rb")


def kind_of_file(path: Path) -> str:
    """The ending that says what a file holds: that before .gz."""
    return Path(path.stem).suffix if path.suffix == ".gz" else path.suffix


def is_json_list(path: Path) -> bool:
    """Whether a file named .json holds one list, and not one object a line. Raises: DataError."""
    if kind_of_file(path) != ".json":
        return False
    with open_record_text(path) as file:
        return read_piece(file, path, 4096).lstrip().startswith("[")


def open_record_text(path: Path) -> IO[str]:
    """The text of a file. A byte that is not UTF-8 becomes half of a surrogate pair, which no record may have."""
    return io.TextIOWrapper(open_record_file(path), encoding="utf-8-sig", errors="surrogateescape")


def read_piece(file: IO[str], path: Path, num_chars: int) -> str:
    """The next piece of a file. Raises: DataError for a gzip file that is damaged."""
    try:
        return file.read(num_chars)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def read_json_list(path: Path) -> Iterator[tuple[int, object]]:
    """Yield (number of the element, from 1; the element) of a file that holds one JSON list. Raises: DataError."""
    decoder, number = json.JSONDecoder(), 0
    with open_record_text(path) as file:
        text = read_piece(file, path, CHUNK_CHARS)
        at = text.find("[") + 1
        while True:
            at = _SKIPPED.match(text, at).end()  # pyright: ignore[reportOptionalMemberAccess]  it matches nothing as well
            if text.startswith("]", at):
                return
            try:
                element, end = decoder.raw_decode(text, at)
                problem = "it ends inside the list"
            except (ValueError, RecursionError) as error:
                element, end, problem = None, len(text), str(error)
            # what reaches to the end of the piece may go on in the next one
            if end < len(text):
                number += 1
                yield number, element
                at = end
                continue
            # twice as much each time, so that a long element is not parsed again for every piece
            more = read_piece(file, path, max(CHUNK_CHARS, len(text) - at))
            if not more:
                raise DataError(f"{path} is damaged after element {number} of its list: {problem}")
            text, at = text[at:] + more, 0


def read_csv(path: Path) -> Iterator[tuple[int, object]]:
    """Yield (number of the row, from 1; its cells by the names of the first row). Raises: DataError."""
    csv.field_size_limit(MAX_CELL_CHARS)
    try:
        with open_record_text(path) as file:
            for number, row in enumerate(csv.DictReader(file), start=1):
                yield number, {str(name): cell for name, cell in row.items()}
    except (OSError, EOFError, zlib.error, csv.Error) as error:
        raise DataError(f"{path} cannot be read: {error}") from error

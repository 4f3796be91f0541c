"""Prompts of a Python program as a prompt file of its run, which buffer and `prolong data` read like any other."""

from __future__ import annotations

import filecmp
import itertools
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from ..common.errors import DataError
from ..common.files import atomic_replacement

DOMAIN = TASK = "own"  # of a record that names none


def write_own_prompts(records: Iterable[Mapping[str, object]], path: Path, *, verifier: str = "", replace: bool = True) -> int:
    """Write one line for each record, as docs/config.md shows prompt files, and return their number; no file without any.

    A record needs `prompt` (a text, or chat messages) and, unless `verifier` is given, `verifier`; `domain`, `task`, `answer`
    and `uid` are as in a prompt file. `replace`: whether a file of other prompts may be replaced.
    Raises: DataError naming the record.
    """
    records = iter(records)
    first = next(records, None)
    if first is None:
        return 0
    path.parent.mkdir(parents=True, exist_ok=True)
    number = 0
    with atomic_replacement(path) as scratch:
        with scratch.open("w", encoding="utf-8") as file:
            for number, record in enumerate(itertools.chain([first], records), start=1):
                file.write(_line(record, number, verifier) + "\n")
        if not replace and path.exists() and not filecmp.cmp(path, scratch, shallow=False):
            raise DataError(
                f"{path}: the run in this folder has other prompts; give it the same ones, or choose another run.name"
            )
    return number


def _line(record: Mapping[str, object], number: int, verifier: str) -> str:
    if not isinstance(record, Mapping) or "prompt" not in record:
        raise DataError(f"prompts, record {number}: got {record!r:.200}; expected a mapping with a `prompt`")
    whole = {"domain": DOMAIN, "task": TASK, **({"verifier": verifier} if verifier else {}), **record}
    if "verifier" not in whole:
        raise DataError(
            f"prompts, record {number}: expected `verifier`: the name of a reward function or of a built-in verifier"
        )
    try:
        return json.dumps(whole, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise DataError(f"prompts, record {number}: {error}; expected what JSON can hold") from error

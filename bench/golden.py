"""Accuracy of the `math` and `stem` verifiers by class of the golden set, against math-verify on the same pairs.

plain: math-verify as its documentation uses it: gold, unit behind it, and whole completion parsed with its defaults.
given box: the same, but it is handed the box that our extraction found.
A false positive (FP) pays a wrong answer, a false negative (FN) refuses a right one. Sets: tests/unit/verifiers/golden.
heldout.jsonl was written after the code and counted before any fix (docs/log.md); since then it guards against regressions.
second_reader.jsonl is somebody else's, later still: blind, aimed at holes seen in the code, and after the fixes of those.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from ..verifiers import math, stem
from ..verifiers.api import Task, Verifier

FOLDER = Path(__file__).resolve().parent.parent / "tests" / "unit" / "verifiers" / "golden"
SETS = ("math", "stem", "heldout", "second_reader")
VERIFIERS: dict[str, Verifier] = {"math": math.MATH, "stem": stem.STEM}


class Pair(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a golden set. hard: it takes algebra, units or structure."""

    kind: str = msgspec.field(name="class")
    hard: bool
    verifier: str
    answer: dict[str, Any]
    completion: str
    right: bool


Judge = Callable[[Pair], bool]


def read_pairs(name: str, folder: Path = FOLDER) -> list[Pair]:
    """Raises FileNotFoundError where there is no checkout around this file."""
    lines = (folder / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [msgspec.json.decode(line, type=Pair) for line in lines]


def ours(pair: Pair) -> bool:
    verifier = VERIFIERS[pair.verifier]
    task = Task(completion=pair.completion, answer=pair.answer)
    return (verifier.quick(task) or verifier.score(task)).reward == 1.0


def gold_text(pair: Pair) -> str:
    unit = pair.answer.get("unit")
    return f"\\boxed{{{pair.answer['answer']}" + (f" \\text{{ {unit}}}}}" if unit else "}")


def plain(pair: Pair) -> bool:
    from math_verify import parse, verify

    return verify(parse(gold_text(pair)), parse(pair.completion))


def given_box(pair: Pair) -> bool:
    from math_verify import parse, verify

    box = math.extract(Task(completion=pair.completion, answer={}))
    return bool(box) and verify(parse(gold_text(pair)), parse(f"\\boxed{{{box}}}"))


def mistakes(pairs: list[Pair], judge: Judge) -> Counter[tuple[str, str]]:
    """(class, "FN" or "FP") -> how many; the class "all" has the sums."""
    found: Counter[tuple[str, str]] = Counter()
    for pair in pairs:
        if judge(pair) != pair.right:
            kind = "FN" if pair.right else "FP"
            found.update([(pair.kind, kind), ("all", kind)])
    return found


def table(pairs: list[Pair]) -> dict[str, dict[str, int]]:
    """Class -> pairs, and both kinds of mistakes of each judge."""
    judges = {"ours": ours, "plain": plain, "given box": given_box}
    found = {name: mistakes(pairs, judge) for name, judge in judges.items()}
    sizes = Counter(pair.kind for pair in pairs) + Counter({"all": len(pairs)})
    return {
        kind: {"pairs": size} | {f"{name} {error}": found[name][kind, error] for name in judges for error in ("FN", "FP")}
        for kind, size in sizes.items()
    }


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="prolong bench golden", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    args = parser.parse_args(argv)
    logging.disable(logging.ERROR)
    math.load()
    tables = {name: table(read_pairs(name)) for name in args.sets}
    if args.json:
        sys.stdout.write(json.dumps(tables) + "\n")
        return 0
    for name, rows in tables.items():
        columns = list(next(iter(rows.values())))
        sys.stdout.write(f"\n{name:28s}" + "".join(f"{column:>14s}" for column in columns) + "\n")
        for kind, row in rows.items():
            sys.stdout.write(f"{kind:28s}" + "".join(f"{row[column]:14d}" for column in columns) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Accuracy of the `math` and `stem` verifiers by class of the golden sets, beside math-verify on the same pairs.

plain: math-verify as its documentation uses it; the reference with its unit behind it, and the whole completion, are parsed
with its defaults. given box: the same, but it is handed the box that our extraction found.
A false positive (FP) pays a wrong answer, a false negative (FN) refuses a right one.
The sets are in tests/unit/verifiers/golden of a checkout; they are not part of the wheel. heldout.jsonl was written after the
code, and counted before any fix (docs/log.md). other_words.jsonl holds one class for each kind of other wording that public
reports named, with near misses. second_reader.jsonl was written later by another author, blind, against holes
seen in the code, and after their fixes. Both guard against regressions now.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import msgspec

from ..common.errors import UserError
from ..common.json_object import JsonObject
from ..launch.entry import exit_code_of
from ..verifiers.answers.algebra import load_algebra
from ..verifiers.api import Task, Verifier
from ..verifiers.math import MATH, boxed_answer
from ..verifiers.stem import STEM

CHECKOUT_FOLDER = Path(__file__).resolve().parent.parent / "tests" / "unit" / "verifiers" / "golden"
SETS = ("math", "stem", "heldout", "other_words", "second_reader")
VERIFIERS: dict[str, Verifier] = {"math": MATH, "stem": STEM}


class Pair(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a golden set. hard: it takes algebra, units or structure."""

    kind: str = msgspec.field(name="class")
    hard: bool
    verifier: str
    answer: JsonObject
    completion: str
    right: bool


PairJudge = Callable[[Pair], bool]


def read_pairs(name: str, folder: Path = CHECKOUT_FOLDER) -> list[Pair]:
    """Read a golden set. Raises UserError where the folder does not hold it."""
    path = folder / f"{name}.jsonl"
    if not path.is_file():
        raise UserError(f"{path} does not exist: the golden sets are in a checkout, not in the wheel; name it by --folder")
    return [msgspec.json.decode(line, type=Pair) for line in path.read_text(encoding="utf-8").splitlines()]


def our_verdict(pair: Pair) -> bool:
    verifier = VERIFIERS[pair.verifier]
    task = Task(completion=pair.completion, answer=pair.answer)
    return (verifier.quick(task) or verifier.score(task)).reward == 1.0


def boxed_reference(pair: Pair) -> str:
    """The stored answer with its unit behind it, in a box."""
    unit = pair.answer.get("unit")
    return f"\\boxed{{{pair.answer['answer']}" + (f" \\text{{ {unit}}}}}" if unit else "}")


def math_verify_plain(pair: Pair) -> bool:
    from math_verify import parse, verify

    return verify(parse(boxed_reference(pair)), parse(pair.completion))


def math_verify_given_box(pair: Pair) -> bool:
    from math_verify import parse, verify

    box = boxed_answer(Task(completion=pair.completion, answer={}))
    return bool(box) and verify(parse(boxed_reference(pair)), parse(f"\\boxed{{{box}}}"))


def mistakes(pairs: list[Pair], judge: PairJudge) -> Counter[tuple[str, str]]:
    """Count the mistakes of a judge by (class, "FN" or "FP"); the class "all" has the sums."""
    found: Counter[tuple[str, str]] = Counter()
    for pair in pairs:
        if judge(pair) != pair.right:
            kind = "FN" if pair.right else "FP"
            found.update([(pair.kind, kind), ("all", kind)])
    return found


def table(pairs: list[Pair]) -> dict[str, dict[str, int]]:
    """For each class: the number of pairs, and both kinds of mistakes of each judge."""
    judges = {"ours": our_verdict, "plain": math_verify_plain, "given box": math_verify_given_box}
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
    parser.add_argument("--folder", type=Path, default=CHECKOUT_FOLDER, help="of the golden sets (default: this checkout's)")
    args = parser.parse_args(argv)
    return exit_code_of("bench golden", lambda: show(args.folder, args.sets, as_json=args.json))


def show(folder: Path, names: list[str], *, as_json: bool) -> int:
    """Print the table of each set. Raises UserError where the folder does not hold one."""
    pairs = {name: read_pairs(name, folder) for name in names}
    logging.disable(logging.ERROR)
    load_algebra()
    tables = {name: table(pairs[name]) for name in names}
    if as_json:
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

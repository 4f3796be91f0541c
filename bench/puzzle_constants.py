"""`prolong bench puzzle-constants`: what answers that solve nothing earn from every dataset of Reasoning Gym.

    puzzles of several levels --> candidates (constants, mixtures, pieces of the question) --> mean reward of each

"honest" is the best constant under equality with the stored answer: the share of the most frequent answer. A scorer that
pays some candidate clearly more than that pays for nothing. Columns: honest; the library's scorer with its best candidate
("runs it" where it executes the answer); ours with its best candidate; the most that one candidate earns without being right.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..common.errors import DataError
from ..common.json_object import JsonObject
from ..launch.entry import exit_code_of
from ..verifiers.data import puzzles
from ..verifiers.data.requests import TAGS
from ..verifiers.logic import formulas
from ..verifiers.logic import reasoning_gym as logic
from .puzzle_candidates import FIXED, mixtures, pieces

# by reading the library's scorers of 0.1.25; those that evaluate stored entries count too
EVALUATING = frozenset({
    "binary_matrix", "bitwise_arithmetic", "countdown", "n_queens", "number_sorting", "puzzle24", "spiral_matrix",
    "string_insertion", *logic.UNSAFE,
})  # fmt: skip
MAX_FORMULA_CHARS = 60  # sympy takes minutes for some long ones


@dataclass(frozen=True, slots=True)
class Puzzle:
    """A generated puzzle. answer: as a prompt file stores it."""

    question: str
    answer: JsonObject

    @property
    def gold(self) -> str:
        return str(self.answer["entry"]["answer"]).strip()


@dataclass(frozen=True, slots=True)
class ConstantsRow:
    """The result of one dataset. Rewards are means over its puzzles; `*_by` names the candidate."""

    dataset: str
    puzzles: int
    honest: float
    library: float | None
    library_by: str
    ours: float
    ours_by: str
    unearned: float  # the largest reward below 1 that any candidate got for any puzzle


Judge = Callable[[str, Puzzle], float]


def our_reward(text: str, puzzle: Puzzle) -> float:
    text = text.strip()
    if puzzle.answer["dataset"] in logic.UNSAFE and (
        len(text) > MAX_FORMULA_CHARS or not formulas.is_formula(formulas.spelled(text), puzzle.answer["entry"])
    ):
        return 0.0
    return logic.judge_puzzle(text, puzzle.answer)


def library_reward(text: str, puzzle: Puzzle) -> float:
    """By Reasoning Gym's own scorer; 0 where it raises."""
    entry = json.loads(json.dumps(puzzle.answer["entry"]))
    try:
        return float(logic.library_dataset(puzzle.answer["dataset"]).score_answer(text.strip(), entry))
    except Exception:  # its scorers raise whatever they like
        return 0.0


def generated_puzzles(dataset: str, count: int, limit_s: float) -> Iterator[Puzzle]:
    """Puzzles of the lowest, the middle and the highest level, as many as the generator makes in time."""
    levels = puzzles.levels(dataset)
    for level in sorted({levels[0], levels[len(levels) // 2], levels[-1]}):
        try:
            with at_most(limit_s):
                for record in puzzles.Entries(dataset, level, count, seed=1):
                    yield Puzzle(record["prompt"].removesuffix(TAGS), record["answer"])
        except (DataError, TimeoutError) as error:
            sys.stderr.write(f"{dataset}, level {level}: {error}\n")


@contextmanager
def at_most(limit_s: float) -> Iterator[None]:
    """Raises TimeoutError in the body after `limit_s`: some generators look for one puzzle for hours.

    An alarm that was set before goes on afterwards with the time that it had left.
    """

    def stop(signum: int, frame: object) -> None:
        raise TimeoutError(f"no further puzzle in {limit_s:g} s")

    before = signal.signal(signal.SIGALRM, stop)
    left_s, _ = signal.setitimer(signal.ITIMER_REAL, limit_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, left_s)


def candidate_texts(found: list[Puzzle]) -> dict[str, list[str]]:
    """By name: the candidate's text for each puzzle."""
    texts = {name: [text] * len(found) for name, text in (FIXED | mixtures([puzzle.gold for puzzle in found])).items()}
    for at, puzzle in enumerate(found):
        for name, text in pieces(puzzle.question).items():
            texts.setdefault(name, [""] * len(found))[at] = text
    return texts


def best(found: list[Puzzle], texts: dict[str, list[str]], judge: Judge) -> tuple[float, str, float]:
    """The best mean reward, the candidate that earns it, and the largest reward below 1."""
    means, unearned = {"": 0.0}, 0.0
    for name, given in texts.items():
        rewards = [judge(text, puzzle) if text.strip() else 0.0 for text, puzzle in zip(given, found, strict=True)]
        means[name] = sum(rewards) / len(found)
        unearned = max([unearned, *(reward for reward in rewards if reward < 1)])
    name = max(means, key=lambda one: means[one])
    return means[name], name, unearned


def measure_dataset(dataset: str, found: list[Puzzle], *, library: bool) -> ConstantsRow:
    texts = candidate_texts(found)
    honest = Counter(puzzle.gold for puzzle in found).most_common(1)[0][1] / len(found)
    theirs = best(found, texts, library_reward) if library and dataset not in EVALUATING else None
    ours, by, unearned = best(found, texts, our_reward)
    return ConstantsRow(
        dataset, len(found), honest, theirs[0] if theirs else None, theirs[1] if theirs else "", ours, by, unearned
    )


def constants_table(rows: Iterable[ConstantsRow]) -> Iterator[str]:
    yield "| dataset | puzzles | honest | library | by | ours | by | below 1, at most |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    for row in rows:
        theirs = "runs it" if row.library is None else f"{row.library:.2f}"
        ours = f"{row.ours:.2f} | {row.ours_by} | {row.unearned:.2f}"
        yield f"| {row.dataset} | {row.puzzles} | {row.honest:.2f} | {theirs} | {row.library_by} | {ours} |"


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="prolong bench puzzle-constants", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="one line of JSON a dataset")
    parser.add_argument("--datasets", nargs="+", default=None, help="(default: all)")
    parser.add_argument("--count", type=int, default=25, help="puzzles a level (default: 25)")
    parser.add_argument("--limit-s", type=float, default=10.0, help="time to generate a level (default: 10)")
    parser.add_argument("--no-library", action="store_true", help="judge by our scorers only")
    parser.add_argument("--out", type=Path, help="write the table to this file as well")
    args = parser.parse_args(argv)

    def run() -> int:
        rows = []
        for dataset in args.datasets or puzzles.datasets():
            if found := list(generated_puzzles(dataset, args.count, args.limit_s)):
                rows.append(measure_dataset(dataset, found, library=not args.no_library))
                line = json.dumps({name: getattr(rows[-1], name) for name in ConstantsRow.__slots__})
                sys.stdout.write(f"{line}\n" if args.json else f"{list(constants_table(rows[-1:]))[-1]}\n")
                sys.stdout.flush()
        if args.out:
            args.out.write_text("\n".join(constants_table(rows)) + "\n", encoding="utf-8")
        return 0

    return exit_code_of("bench puzzle-constants", run)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

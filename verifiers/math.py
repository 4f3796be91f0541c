r"""`math` and `number`: is the final answer mathematically the stored one?

The last balanced \boxed{...} behind the thinking counts, and nothing else. Answers that are certainly equal or different
(texts, numbers, units, choices, brackets) are decided by answers/comparison.py without importing sympy; all others take algebra
(answers/algebra.py), part by part. A stored answer with a unit is also met by the bare number, and 25\% by 25 and by 0.25,
because published sets are inconsistent there. `math` takes further right answers: {"answer": "3", "aliases": ["-3"]}.
"""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from math import inf

import msgspec

from ..common.errors import DataError
from ..common.types import VerdictStatus
from .answers.algebra import equal_by_algebra, has_huge_number, load_algebra
from .answers.bounds import BUDGET_S, beyond_bounds, has_stalled, within_budget
from .answers.comparison import agree, same_quantity
from .answers.extraction import after_thinking, last_boxed, last_number, last_tagged, separate_boxes, stored_answer
from .answers.plain_numbers import number
from .answers.quantity import read
from .answers.spelling import clean
from .answers.stored_answers import check_stored
from .answers.structure import assigned, parts
from .answers.three_valued import Algebra, every, no_algebra
from .api import Answer, Score, Task, Verifier

MAX_ANSWER_CHARS = 2000
# a completion for probes; the stored answer itself would be equal without parsing
HARMLESS_ANSWER = "\\frac{355}{113}"
HARMLESS = f"\\boxed{{{HARMLESS_ANSWER}}}"


def boxed_answer(task: Task) -> str | None:
    return last_boxed(after_thinking(task))


def boxed_parts(task: Task, reference: str) -> list[tuple[str, str]]:
    """Pairs of stored part and box where a completion has one box for each part of the stored answer, and no other box."""
    if "," not in reference and "\\" not in reference and " " not in reference:
        return []
    found = separate_boxes(after_thinking(task))
    if len(found) < 2 or sum(map(len, found)) > MAX_ANSWER_CHARS:
        return []
    expected = parts(read(reference).text)
    if expected is None or expected.kind not in ("list", "set", "tuple") or len(expected.items) != len(found):
        return []
    pairs = list(zip(expected.items, found, strict=True))
    return [] if any(beyond_bounds(box, part) for part, box in pairs) else pairs


def verdict_of(task: Task, reference: str, answer: str, algebra: Algebra = no_algebra) -> tuple[bool | None, str]:
    """Whether the last box is the stored answer, or all boxes are its parts, and the text that was judged.

    The parts count in the order of the stored answer, or each with its name.
    """
    verdict = agree(reference, answer, algebra)
    if verdict is True or not (pairs := boxed_parts(task, reference)):
        return verdict, answer
    given = _joined(pairs)
    if all("=" in box for _, box in pairs):
        by_parts = agree(reference, given, algebra)
    else:
        by_parts = every(agree(part, box, algebra) for part, box in pairs)
    return (by_parts if by_parts or verdict is False else None), given


def _joined(pairs: list[tuple[str, str]]) -> str:
    return ", ".join(box for _, box in pairs)


def refused_score(answer: str | None, reference: str) -> Score | None:
    """The score of an answer that is missing, empty or too long; None for an answer to be judged."""
    if answer is None:
        return Score(reward=0.0, status=VerdictStatus.no_answer, detail="no balanced \\boxed{} behind the thinking")
    if not answer:
        return Score(reward=0.0, status=VerdictStatus.no_answer, detail="an empty box")
    if len(answer) > max(MAX_ANSWER_CHARS, 4 * len(reference)):
        return _over_bounds(f"a boxed answer of {len(answer)} characters")
    if reason := beyond_bounds(answer, reference):
        return _over_bounds(reason)
    if has_stalled(reference, answer):
        return stalled_score()
    return None


def _over_bounds(reason: str) -> Score:
    return Score(reward=0.0, status=VerdictStatus.input_rejected, detail=reason, metrics={"over_bounds": 1.0})


def stalled_score() -> Score:
    """The score of an answer that keeps the algebra busy longer than any right answer does."""
    detail = f"more than {BUDGET_S} s of CPU time, where the stored answer is judged in less"
    return Score(reward=0.0, status=VerdictStatus.input_rejected, detail=detail, metrics={"over_budget": 1.0})


def quick_score(verdict: bool | None, reference: str, answer: str) -> Score | None:
    """The score where no algebra is needed; None where it is (`verdict` is None) and sympy can be expected to end."""
    if verdict is not None:
        return Score(reward=float(verdict), metrics={"quick": 1.0})
    if has_huge_number(reference, answer):
        return Score(reward=0.0, status=VerdictStatus.input_rejected, detail="a number too large to be worked out")
    return None


def tasks_of_aliases(task: Task) -> list[Task]:
    """The task with its stored answer, and with each of its aliases in the place of that."""
    aliases = task.answer.get("aliases", [])
    return [task, *(msgspec.structs.replace(task, answer={"answer": alias}) for alias in aliases)]


class MathVerifier(Verifier):
    r"""The last `\boxed{}` after `</think>`, compared as text, as a number, and then with math-verify."""

    def check(self, answer: Answer) -> None:
        check_stored("math", answer)

    def gold(self, answer: Answer) -> str | None:
        return f"\\boxed{{{stored_answer(answer)}}}"

    def quick(self, task: Task) -> Score | None:
        scores = [self._quick(one) for one in tasks_of_aliases(task)]
        right = next((score for score in scores if score is not None and score.reward == 1.0), None)
        return right or (None if None in scores else scores[0])

    def _quick(self, task: Task) -> Score | None:
        answer, reference = boxed_answer(task), stored_answer(task.answer)
        refused = refused_score(answer, reference)
        if answer is None or refused is not None:
            return refused
        verdict, given = verdict_of(task, reference, answer)
        if verdict is None and has_stalled(reference, given):
            return stalled_score()
        return quick_score(verdict, reference, given)

    def load(self) -> None:
        load_algebra()

    def score(self, task: Task) -> Score:
        return max((self._score(one) for one in tasks_of_aliases(task)), key=lambda score: score.reward)

    def _score(self, task: Task) -> Score:
        reference, answer = stored_answer(task.answer), boxed_answer(task) or ""

        def judged(one: Task, text: str) -> bool:
            return bool(verdict_of(one, reference, text, equal_by_algebra)[0])

        harmless = msgspec.structs.replace(task, completion=HARMLESS)
        key = (reference, _joined(boxed_parts(task, reference)) or answer)
        verdict = within_budget(lambda: judged(task, answer), lambda: judged(harmless, HARMLESS_ANSWER), key)
        return stalled_score() if verdict is None else Score(reward=float(verdict), metrics={"quick": 0.0})

    def probe(self, answer: Answer) -> bool:
        self.score(Task(completion=HARMLESS, answer=answer))
        return True


class NumberVerifier(Verifier):
    r"""The last number after `</think>`.

    The reward is 1 if it is the stored number, up to `tolerance`. A number in a box or in <answer> tags wins over the last one.
    A name before it and a unit behind it are left out: x = 18, \$18 and 18 \text{ dollars} are 18. A text that was cut off has
    no last number, because that may be half of one, chosen by the token limit.
    """

    def check(self, answer: Answer) -> None:
        check_stored("number", answer)
        tolerance = answer.get("tolerance", 0)
        if isinstance(tolerance, bool) or not isinstance(tolerance, int | float) or not 0 <= tolerance < inf:
            raise DataError(f"verifier number: got tolerance {tolerance!r}; expected a number of at least 0")
        if number(clean(stored_answer(answer))) is None:
            raise DataError(
                f'verifier number: got answer {answer["answer"]!r}; expected a plain number such as "932", "-1.5" or "2/3"'
            )

    def gold(self, answer: Answer) -> str | None:
        return f"\\boxed{{{stored_answer(answer)}}}"

    def quick(self, task: Task) -> Score | None:
        return self.score(task)

    def score(self, task: Task) -> Score:
        text = after_thinking(task)
        answer = last_boxed(text) or last_tagged(text)
        if not answer and not task.cut_off:
            answer = last_number(text)
        if not answer:
            return Score(reward=0.0, status=VerdictStatus.no_answer, detail="no number behind the thinking")
        if len(answer) > MAX_ANSWER_CHARS:
            return Score(reward=0.0, status=VerdictStatus.input_rejected, detail=f"an answer of {len(answer)} characters")
        named = assigned(clean(answer))
        found, expected = read(named[1] if named else answer), read(stored_answer(task.answer))
        if found.number is None or expected.number is None:
            return Score(reward=0.0, detail="not a plain number")
        tolerance = Fraction(Decimal(str(task.answer.get("tolerance", 0))))
        near = abs(found.number - expected.number) <= tolerance and found.percent == expected.percent
        return Score(reward=float(near or same_quantity(replace(expected, unit=None), replace(found, unit=None))))

    def probe(self, answer: Answer) -> bool:
        self.check(answer)
        return True


MATH = MathVerifier()
NUMBER = NumberVerifier()

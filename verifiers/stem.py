r"""`stem`: is the final answer of a science question the stored one? A number with a unit, a choice, a formula or a phrase.

Answer specifications:
    {"answer": "3.2e-3", "unit": "m/s", "rel_tol": 0.02}        number: 3.2 mm/s and 0.00325 m s^{-1} are right
    {"answer": "B", "choices": {"A": "5 m/s", "B": "7 m/s"}}    choice: B, (B), B. 7 m/s and 7 m/s are right
    {"answer": "$T = 2\\pi\\sqrt{L/g}$"}                        formula: compared by algebra, as in `math`
    {"answer": "photosynthesis", "aliases": ["..."]}            text: compared word by word (answers/phrases.py)
`kind` ("number", "choice", "formula", "text") is read off the stored answer unless it is given. Also: `abs_tol`, and
`unit_optional`, without which a completion that names no unit is wrong where the stored answer has one.
Without tolerances a plain integer without a unit is exact; any other number may be off by 1 %, or by half of its last digit
if it has two digits or more. The completion's answer is its last box, else its last <answer> tag, behind the thinking.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable

from msgspec.structs import replace

from ..common.errors import DataError
from .answers.algebra import constant_value, equal_by_algebra, load_algebra
from .answers.bounds import within_budget
from .answers.chemistry import same_chemical
from .answers.choices import letters, names_choices
from .answers.comparison import agree
from .answers.extraction import after_thinking, last_boxed, last_tagged, stored_answer
from .answers.phrases import same_phrase
from .answers.quantity import read
from .answers.reactions import same_reaction
from .answers.spelling import plain, tidy, unwrap
from .answers.stored_answers import check_stored
from .answers.three_valued import Algebra, no_algebra
from .answers.tolerance import Constant, core, measured, same_number, stored_number
from .answers.units import parse_unit
from .answers.vectors import both_vectors, same_vector
from .answers.wordings import normal_words
from .api import Answer, Score, Task, Verifier
from .math import HARMLESS, quick_score, refused_score, stalled_score

KINDS = ("number", "choice", "formula", "text")
KEYS = {"answer", "unit", "rel_tol", "abs_tol", "kind", "choices", "aliases", "unit_optional"}
_RATIO = re.compile(r"\d[\d.]* ?: ?\d[\d.]*")
_IN_WORDS = re.compile(r"(?<=\d) to (?=\d)")  # 3 to 1
_GREEK = re.compile(r"\\(alpha|beta|gamma|delta|epsilon|theta|lambda|mu|pi|rho|sigma|tau|phi|psi|omega)(?![a-zA-Z]) ?")
_WORDS = re.compile(r"[^\W\d_]{4}|\b(?:yes|no)\b", re.IGNORECASE)
_MATHEMATICS = re.compile(r"[\\^_=+*/]|\d")


def kind_of(spec: Answer) -> str:
    """The `kind` of an answer specification, given or read off the stored answer."""
    if "kind" in spec:
        return spec["kind"]
    text = core(stored_answer(spec))
    if "choices" in spec or names_choices(text):
        return "choice"
    if measured(stored_number(spec)[0], None).number is not None:
        return "number"
    return "formula" if _MATHEMATICS.search(text) else "text"


# --- choices ----------------------------------------------------------------------------------------------------------


def same_choice(spec: Answer, answer: str, judge: Callable[[Answer, str], bool | None]) -> bool | None:
    """Compare by letter, or else by the text of the stored choice."""
    wanted, choices = letters(stored_answer(spec)), spec.get("choices", {})
    if (named := letters(answer)) is not None:
        return named == wanted
    if not wanted or len(wanted) != 1 or not choices:
        return False
    return judge({"answer": choices[next(iter(wanted))]}, answer)


# --- the verifier -----------------------------------------------------------------------------------------------------


def same_answer(spec: Answer, answer: str, algebra: Algebra = no_algebra, constant: Constant | None = None) -> bool | None:
    """Whether an answer is the stored one; None if only algebra could tell and there is none."""
    kind = kind_of(spec)
    if kind == "number":
        return same_number(spec, answer, constant)
    if kind == "choice":
        return same_choice(spec, answer, lambda choice, text: same_answer(choice, text, algebra, constant))
    reference, found = core(stored_answer(spec)), core(answer)
    if _RATIO.fullmatch(reference.strip()):
        found = _IN_WORDS.sub(":", plain(unwrap(tidy(found))))
    if pair := both_vectors(spec, reference, found):
        return same_vector(spec, pair, algebra, constant)
    if (reaction := same_reaction(reference, found)) is not None:
        return reaction
    if (chemical := same_chemical(reference, found)) is not None:
        return chemical
    if spec.get("unit"):
        if not spec.get("unit_optional", False) and read(found).unit is None:
            return False
        reference = f"{reference} \\text{{{spec['unit']}}}"
    if same_words(reference, found, kind):
        return True
    return agree(reference, found) is True if kind == "text" else agree(reference, found, algebra)


def same_words(reference: str, found: str, kind: str) -> bool:
    """Whether both are words, or formulas with words, that say the same."""
    expected, said = (_GREEK.sub(r"\1 ", plain(unwrap(tidy(text)))) for text in (reference, found))
    if "\\" in expected:
        return False
    if normal_words(expected) == normal_words(said):
        return True
    return (kind == "text" or _WORDS.search(expected) is not None) and same_phrase(expected, said)


def meets_one(task: Task, algebra: Algebra, constant: Constant | None) -> bool | None:
    """Whether the completion's answer is the stored one or one of its aliases; None if only algebra could tell."""
    answer = final_answer(task) or ""
    unknown = False
    for spec in [task.answer, *({"answer": alias} for alias in task.answer.get("aliases", []))]:
        verdict = same_answer(spec, answer, algebra, constant)
        if verdict:
            return True
        unknown = unknown or verdict is None
    return None if unknown else False


def longest_spelling(spec: Answer) -> str:
    """The longest text that a completion may give: the stored answer, an alias, or the text of a choice."""
    return max([stored_answer(spec), *spec.get("aliases", []), *spec.get("choices", {}).values()], key=len)


def final_answer(task: Task) -> str | None:
    text = after_thinking(task)
    boxed = last_boxed(text)
    return boxed if boxed is not None else last_tagged(text)


class StemVerifier(Verifier):
    """Science: the last box or `<answer>` tag, as a number with a unit, a choice, a formula or a phrase."""

    def check(self, answer: Answer) -> None:
        check_stored("stem", answer)
        value, kind = answer["answer"], answer.get("kind")
        if unknown := set(answer) - KEYS:
            raise DataError(f"verifier stem: unknown keys {sorted(unknown)}; expected some of {sorted(KEYS)}")
        if kind is not None and kind not in KINDS:
            raise DataError(f"verifier stem: got kind {kind!r}; expected one of {', '.join(KINDS)}")
        _check_types(answer)
        kind = kind_of(answer)
        if kind == "number" and measured(stored_number(answer)[0], None).number is None:
            raise DataError(f'verifier stem: got answer {value!r} of kind "number"; expected a plain number such as "3.2e-3"')
        if kind == "choice":
            named = letters(stored_answer(answer))
            if not named or not named <= set(answer.get("choices", named)):
                raise DataError(
                    f'verifier stem: got answer {value!r} of kind "choice"; expected the letter of a choice, A to J'
                )

    def gold(self, answer: Answer) -> str | None:
        stored, unit = stored_answer(answer), answer.get("unit")
        if unit and measured(core(stored), None).unit is None:
            stored += f"\\ {unit}" if "\\" in unit else f"\\ \\text{{{unit}}}"
        return f"\\boxed{{{stored}}}"

    def quick(self, task: Task) -> Score | None:
        answer = final_answer(task)
        refused = refused_score(answer, longest_spelling(task.answer))
        if answer is None or refused is not None:
            return refused
        return quick_score(meets_one(task, no_algebra, None), stored_answer(task.answer), answer)

    def load(self) -> None:
        load_algebra()

    def score(self, task: Task) -> Score:

        def judged(completion: str) -> bool:
            return bool(meets_one(replace(task, completion=completion), equal_by_algebra, constant_value))

        key = (longest_spelling(task.answer), final_answer(task) or "")
        verdict = within_budget(lambda: judged(task.completion), lambda: judged(HARMLESS), key)
        return stalled_score() if verdict is None else Score(reward=float(verdict), metrics={"quick": 0.0})

    def probe(self, answer: Answer) -> bool:
        self.score(Task(completion=HARMLESS, answer=answer))
        return True


def _check_types(answer: Answer) -> None:
    """Raises DataError for a value of the wrong type."""
    unit = answer.get("unit")
    if unit is not None and (not isinstance(unit, str) or parse_unit(plain(unwrap(tidy(unit)))) is None):
        raise DataError(f'verifier stem: got unit {unit!r}; expected SI or common units such as "m/s^2" or "kJ mol^-1"')
    for key in ("rel_tol", "abs_tol"):
        bound = answer.get(key, 0)
        if isinstance(bound, bool) or not isinstance(bound, int | float) or not 0 <= bound < math.inf:
            raise DataError(f"verifier stem: got {key} {bound!r}; expected a number of at least 0")
    if not isinstance(answer.get("unit_optional", False), bool):
        raise DataError(f"verifier stem: got unit_optional {answer['unit_optional']!r}; expected true or false")
    choices = answer.get("choices", {})
    if not isinstance(choices, dict) or not all(isinstance(text, str) and text.strip() for text in choices.values()):
        raise DataError(f'verifier stem: got choices {choices!r}; expected texts by letter, such as {{"A": "5 m/s"}}')


STEM = StemVerifier()

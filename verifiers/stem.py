r"""`stem`: is the final answer of a science question the stored one? A number with a unit, a choice, a formula or a phrase.

Answer specification:
    {"answer": "3.2e-3", "unit": "m/s", "rel_tol": 0.02}        number: 3.2 mm/s and 0.00325 m s^{-1} are right
    {"answer": "B", "choices": {"A": "5 m/s", "B": "7 m/s"}}    choice: B, (B), B. 7 m/s and 7 m/s are right
    {"answer": "$T = 2\\pi\\sqrt{L/g}$"}                        formula: compared by algebra, as `math` does
    {"answer": "photosynthesis", "aliases": ["..."]}            text: compared word by word
`kind` ("number", "choice", "formula", "text") is read off the stored answer unless it is given. Also: `abs_tol`, and
`unit_optional`: a completion that names no unit is wrong where the stored answer has one, unless this is true.
Without tolerances a plain integer without unit is exact; any other number may be off by 1 %, or by half of its last digit
when it gives two digits or more. The completion's answer is its last box, else its last <answer> tag, behind the thinking.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from typing import Any

from ..common.errors import DataError
from .answers.chemistry import same_chemical
from .answers.comparison import Algebra, agree, no_algebra, word
from .answers.extraction import after_thinking, last_boxed, last_tagged
from .answers.numbers import significant_digits
from .answers.quantity import Quantity, exact, read, take_unit
from .answers.spelling import plain, tidy, unwrap
from .answers.units import Unit, parse_unit
from .api import Score, Task, Verifier
from .math import HARMLESS, algebra, gold_of, huge, load, parsed, refused

KINDS = ("number", "choice", "formula", "text")
KEYS = {"answer", "unit", "rel_tol", "abs_tol", "kind", "choices", "aliases", "unit_optional"}
REL_TOL = Fraction(1, 100)
HALF_KELVIN = Fraction(1, 2)  # 25 degrees Celsius are 298 K
Value = Callable[[str], Fraction | None]
_LETTERS = re.compile(r"\(?([A-J])\)?(?:(?:\s*(?:,|;|/|&|and)\s*|\s*)\(?([A-J])\)?){0,9}[.):]?")
_CHOICES = re.compile(r"\(?[A-J]\)?(?:(?: ?[,;] ?| and |, and )\(?[A-J]\)?){0,9}")
_LABELLED = re.compile(r"(?:\(([A-J])\)|([A-J])[.):])\s*(?!\d)|(?:\(([A-J])\)|([A-J])[.):])\s+")
_OPTION = re.compile(r"(?:option|choice|answer)\s*:?\s*", re.IGNORECASE)
_RELATION = re.compile(r"=|\\approx|\\sim(?![a-z])")
_GLUED = re.compile(r"([-+]?[\d.,]+(?:[eE][-+]?\d+)?(?: ?(?:\\times|\\cdot) ?10\^\{?[-+]?\d+\}?)?) ?(?=[A-Za-z\\^(])")
_MATHEMATICS = re.compile(r"[\\^_=+*/]|\d")


def kind_of(answer: dict[str, Any]) -> str:
    """As given, or read off the stored answer."""
    if "kind" in answer:
        return answer["kind"]
    text = core(gold_of(answer))
    if "choices" in answer or _CHOICES.fullmatch(plain(unwrap(tidy(text)))):
        return "choice"
    if measured(text, None).number is not None:
        return "number"
    return "formula" if _MATHEMATICS.search(text) else "text"


def core(text: str) -> str:
    """The formula of a sentence that holds exactly one, with the unit behind it; otherwise the text."""
    if text.count("$") != 2 or text.lstrip().startswith("$"):
        return text
    _, inside, after = text.split("$")
    behind = after.strip().rstrip(".")
    return f"{inside} \\text{{{behind}}}" if parse_unit(behind) else inside


def measured(text: str, wanted: Unit | None) -> Quantity:
    """Number and unit of the last side of `v = a t = 3.2 m/s`. `wanted`: a unit that may stand there without \\text{}."""
    side = _RELATION.split(plain(unwrap(tidy(text))))[-1] if "\\text" not in text else _RELATION.split(tidy(text))[-1]
    found = read(side)
    if wanted:
        return take_unit(found, wanted)
    if found.number is None and not found.unit and (match := _GLUED.match(found.text)):
        head, unit = match[1], parse_unit(found.text[match.end() :])
        if unit and exact(head) is not None:
            return replace(read(head, whole=True), unit=unit)
    return found


# --- numbers ----------------------------------------------------------------------------------------------------------


def tolerance(answer: dict[str, Any], gold: Quantity) -> Fraction:
    """How far a value may be from the stored one, in the stored unit."""
    assert gold.number is not None
    size = abs(gold.number)
    if "rel_tol" in answer or "abs_tol" in answer:
        rel, absolute = (Fraction(Decimal(str(answer.get(key, 0)))) for key in ("rel_tol", "abs_tol"))
        return max(rel * size, absolute)
    digits = significant_digits(gold.value)
    if re.sub(r"[+, -]", "", gold.value).isdigit():
        return REL_TOL * size if gold.unit else Fraction(0)
    if "frac" in gold.value or "/" in gold.value or digits < 2:
        return REL_TOL * size
    mantissa = re.sub(r"[^0-9]", "", re.split(r"[eE\\*]", gold.value, maxsplit=1)[0]).lstrip("0")
    return max(REL_TOL * size, size / (2 * int(mantissa)))


def same_number(answer: dict[str, Any], given: str, value: Value | None) -> bool | None:
    """`value` works out what is no plain number; without it such answers are None."""
    gold = measured(core(gold_of(answer)), None)
    unit = parse_unit(plain(unwrap(tidy(answer["unit"])))) if answer.get("unit") else gold.unit
    gold, got = replace(gold, unit=unit), measured(core(given), unit)
    if unit and got.unit and not unit.agrees(got.unit):
        return False
    if unit and not got.unit and not answer.get("unit_optional", False):
        return False
    x = got.number if got.number is not None else (value(got.text) if value else None)
    if x is None or gold.number is None:
        return False if value else None
    if unit and got.unit:
        x = (x * got.unit.factor + got.unit.offset - unit.offset) / unit.factor
    allowed = tolerance(answer, gold)
    if unit and got.unit and unit.offset != got.unit.offset:
        allowed += HALF_KELVIN / unit.factor
    if gold.percent == got.percent:
        return abs(x - gold.number) <= allowed
    hundredth = abs(x - gold.number / 100) <= allowed / 100 if gold.percent else abs(x / 100 - gold.number) <= allowed
    return hundredth or x == gold.number


def value_of(text: str) -> Fraction | None:
    """A constant such as \\sqrt{2}, worked out by sympy."""
    import sympy

    found = parsed(text)
    if not found or not isinstance(found[0], sympy.Expr) or not found[0].is_number:
        return None
    number = found[0].doit().evalf(20)
    return Fraction(str(number)) if number.is_Float and number.is_finite else None


# --- choices ----------------------------------------------------------------------------------------------------------


def letters(text: str) -> frozenset[str] | None:
    """The choices that a text names: B, (B), b, `B. Oxygen`, `A and C`; None if it names none."""
    text = plain(unwrap(tidy(text)))
    text = _OPTION.sub("", text, count=1).strip() if _OPTION.match(text) else text
    if len(text) <= 3 and re.fullmatch(r"\(?[a-j]\)?", text):
        text = text.upper()
    if len(text) <= 60 and _LETTERS.fullmatch(text):
        return frozenset(re.findall(r"[A-J]", text))
    match = _LABELLED.match(text)
    return frozenset(filter(None, match.groups())) if match else None


def same_choice(answer: dict[str, Any], given: str, judge: Callable[[dict[str, Any], str], bool | None]) -> bool | None:
    """By letter; else by the text of the stored choice."""
    wanted, choices = letters(gold_of(answer)), answer.get("choices", {})
    if (named := letters(given)) is not None:
        return named == wanted
    if not wanted or len(wanted) != 1 or not choices:
        return False
    return judge({"answer": choices[next(iter(wanted))]}, given)


# --- the verifier -----------------------------------------------------------------------------------------------------


def same(answer: dict[str, Any], given: str, decide: Algebra = no_algebra, value: Value | None = None) -> bool | None:
    """Whether an answer is the stored one; None if that takes algebra and there is none."""
    kind = kind_of(answer)
    if kind == "number":
        return same_number(answer, given, value)
    if kind == "choice":
        return same_choice(answer, given, lambda spec, text: same(spec, text, decide, value))
    gold, got = core(gold_of(answer)), core(given)
    if (chemical := same_chemical(gold, got)) is not None:
        return chemical
    if answer.get("unit"):
        if not answer.get("unit_optional", False) and read(got).unit is None:
            return False
        gold = f"{gold} \\text{{{answer['unit']}}}"
    if kind == "text":
        return word(plain(unwrap(tidy(gold)))) == word(plain(unwrap(tidy(got))))
    return agree(gold, got, decide)


def judged(task: Task, decide: Algebra, value: Value | None) -> bool | None:
    """The stored answer and its aliases: right if one of them is met."""
    given = extract(task) or ""
    golds = [task.answer, *({"answer": alias} for alias in task.answer.get("aliases", []))]
    unknown = False
    for answer in golds:
        verdict = same(answer, given, decide, value)
        if verdict:
            return True
        unknown = unknown or verdict is None
    return None if unknown else False


def extract(task: Task) -> str | None:
    text = after_thinking(task)
    boxed = last_boxed(text)
    return boxed if boxed is not None else last_tagged(text)


def quick(task: Task) -> Score | None:
    if (score := refused(extract(task), gold_of(task.answer))) is not None:
        return score
    verdict = judged(task, no_algebra, None)
    if verdict is None and huge(gold_of(task.answer), extract(task) or ""):
        return Score(reward=0.0, status="input_rejected", detail="a number too large to be worked out")
    return None if verdict is None else Score(reward=float(verdict), metrics={"quick": 1.0})


def score(task: Task) -> Score:
    return Score(reward=float(bool(judged(task, algebra, value_of))), metrics={"quick": 0.0})


def probe(answer: dict[str, Any]) -> None:
    """The stored answer against a harmless other one."""
    score(Task(completion=HARMLESS, answer=answer))


def check(answer: dict[str, Any]) -> None:
    value, kind = answer.get("answer"), answer.get("kind")
    if isinstance(value, bool) or not isinstance(value, str | int | float) or not str(value).strip():
        raise DataError(f'verifier stem: got answer {answer!r}; expected {{"answer": a number or text}}')
    if unknown := set(answer) - KEYS:
        raise DataError(f"verifier stem: unknown keys {sorted(unknown)}; expected some of {sorted(KEYS)}")
    if kind is not None and kind not in KINDS:
        raise DataError(f"verifier stem: got kind {kind!r}; expected one of {', '.join(KINDS)}")
    _check_types(answer)
    kind = kind_of(answer)
    if kind == "number" and measured(core(gold_of(answer)), None).number is None:
        raise DataError(f'verifier stem: got answer {value!r} of kind "number"; expected a plain number such as "3.2e-3"')
    if kind == "choice" and (not (named := letters(gold_of(answer))) or not named <= set(answer.get("choices", named))):
        raise DataError(f'verifier stem: got answer {value!r} of kind "choice"; expected the letter of a choice, A to J')


def _check_types(answer: dict[str, Any]) -> None:
    unit = answer.get("unit")
    if unit is not None and (not isinstance(unit, str) or parse_unit(plain(unwrap(tidy(unit)))) is None):
        raise DataError(f'verifier stem: got unit {unit!r}; expected SI or common units such as "m/s^2" or "kJ mol^-1"')
    for key in ("rel_tol", "abs_tol"):
        bound = answer.get(key, 0)
        if isinstance(bound, bool) or not isinstance(bound, int | float) or not 0 <= bound < math.inf:
            raise DataError(f"verifier stem: got {key} {bound!r}; expected a number of at least 0")
    if not isinstance(answer.get("unit_optional", False), bool):
        raise DataError(f"verifier stem: got unit_optional {answer['unit_optional']!r}; expected true or false")
    aliases, choices = answer.get("aliases", []), answer.get("choices", {})
    if not isinstance(aliases, list) or not all(isinstance(alias, str) and alias.strip() for alias in aliases):
        raise DataError(f"verifier stem: got aliases {aliases!r}; expected a list of texts")
    if not isinstance(choices, dict) or not all(isinstance(text, str) and text.strip() for text in choices.values()):
        raise DataError(f'verifier stem: got choices {choices!r}; expected texts by letter, such as {{"A": "5 m/s"}}')


STEM = Verifier(check=check, quick=quick, load=load, score=score, probe=probe)

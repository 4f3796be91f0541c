r"""Vectors in unit vectors: 3\hat{i} + 4\hat{j} as its components ("3", "4", "0").

Only sums in which every term has one unit vector are read. The plain letters i and j are unit vectors only side by side,
because 3 + 4i is a complex number.
"""

from __future__ import annotations

import re
from dataclasses import replace
from fractions import Fraction

from ..api import Answer
from .quantity import Quantity, exact, read, take_unit
from .spelling import plain, tidy, unwrap
from .structure import assigned, parts
from .three_valued import Algebra, every
from .tolerance import Constant, allowed_error, units_agree
from .units import parse_unit

_AXES = {"i": 0, "j": 1, "k": 2, "\\imath": 0, "\\jmath": 1, "x": 0, "y": 1, "z": 2}
_UNICODE = str.maketrans({"î": "\\hat{i}", "ĵ": "\\hat{j}"})
# \hat{i}, \hat{\mathbf{i}}, \mathbf{\hat{i}}, \hat i, \hat{e}_x, k with a combining circumflex
_HATTED = re.compile(
    r"\\(?:mathbf|boldsymbol|bm|vec|mathrm)\s*\{\s*\\hat\s*\{?\s*(\\[ij]math|[ijkxyz])\s*\}{1,2}|"
    r"\\(?:hat|widehat)\s*(?:\{\s*)?(?:\\(?:mathbf|mathrm|boldsymbol|bm|vec|text|textbf)\s*\{\s*)?(\\[ij]math|[ijkxyz])\s*\}{0,2}|"
    r"\\(?:hat|widehat)\s*\{\s*(?:\\mathbf\s*\{\s*)?e\s*\}{1,2}_\{?([xyz])\}?|([ijkxyz])\u0302"
)
_BOLD = re.compile(r"\\(?:mathbf|boldsymbol|bm|vec)\s*\{\s*([ijk])\s*\}")
AXIS = "\ue010"  # a unit vector: this mark and the digit of its axis
_AXIS = re.compile(rf"{AXIS}([012])")
_PLAIN = re.compile(r"(?<![a-zA-Z\\])([ijk])(?![a-zA-Z])")
_SCALED = re.compile(r"([^()+]*?)\s*(?:\\cdot|\*)?\s*\(([^()]*)\)\Z")
_BEHIND = re.compile(r"(.*(?:\)|\]|\\rangle|\\end\{[pb]matrix\})) ?([A-Za-z\\$€£°][^()\[\]]*)", re.DOTALL)  # (3, 4) m/s
MAX_VECTOR_CHARS = 400
Vector = tuple[Quantity, tuple[str, ...]]  # the vector with its unit, and its components


def mark_axes(latex: str) -> str:
    """The text with every unit vector as AXIS and a digit; unchanged where there is none."""
    if len(latex) > MAX_VECTOR_CHARS:
        return latex
    text = _HATTED.sub(lambda match: f"{AXIS}{_AXES[next(filter(None, match.groups()))]}", latex.translate(_UNICODE))
    text = _BOLD.sub(lambda match: f"{AXIS}{_AXES[match[1]]}", text)
    letters = set(_PLAIN.findall(text))
    if AXIS not in text and "\\" not in text and "j" in letters and ("i" in letters or "k" in letters):
        text = _PLAIN.sub(lambda match: f"{AXIS}{_AXES[match[1]]}", re.sub(r"(?<=\d)(?=[ijk](?![a-zA-Z]))", " ", text))
    return text


def components(text: str) -> tuple[str, ...] | None:
    """The three components of a marked sum, as texts; None where it is not one."""
    text = text.strip()
    if AXIS not in text or len(text) > MAX_VECTOR_CHARS:
        return None
    factor = ""
    if text.endswith(")") and (match := _SCALED.match(text)) and AXIS not in match[1]:
        factor, text = match[1].strip(), match[2]
        factor = "-1" if factor == "-" else factor
    found = ["0", "0", "0"]
    for term in _terms(text):
        axes = _AXIS.findall(term)
        if len(axes) != 1 or found[int(axes[0])] != "0":
            return None
        coefficient = _AXIS.sub("", term).replace("\\cdot", " ").strip("* ")
        coefficient = {"": "1", "+": "1", "-": "-1"}.get(coefficient.replace(" ", ""), coefficient.removeprefix("+").strip())
        found[int(axes[0])] = f"({factor})\\cdot({coefficient})" if factor else coefficient
    return tuple(found)


def _terms(text: str) -> list[str]:
    """The terms of a sum, each with its sign."""
    terms, depth, start = [], 0, 0
    for at, char in enumerate(text):
        depth += (char in "({[") - (char in ")}]")
        if (
            char in "+-"
            and depth == 0
            and text[start:at].strip()
            and text[:at].rstrip()[-1:] not in ("e", "E", "*", "^", "+", "-")
        ):
            terms.append(text[start:at])
            start = at
    return [*terms, text[start:]]


def both_vectors(spec: Answer, reference: str, answer: str) -> tuple[Vector, Vector] | None:
    """Both answers as vectors, of which one has unit vectors or the stored one has a unit; None where they are not."""
    stored = _vector(reference, None)
    if stored is None:
        return None
    if spec.get("unit"):
        unit = parse_unit(plain(unwrap(tidy(spec["unit"]))))
        stored = (replace(stored[0], unit=unit), stored[1])
    found = _vector(answer, stored[0])
    has_axes = AXIS in mark_axes(reference) + mark_axes(answer)
    return (stored, found) if found and (has_axes or stored[0].unit) else None


def _vector(latex: str, wanted: Quantity | None) -> Vector | None:
    """A vector with its unit. wanted: the stored one, whose unit may stand there without \\text{}."""
    if len(latex) > MAX_VECTOR_CHARS:
        return None
    found = read(mark_axes(latex))
    if found.unit is None and (behind := _BEHIND.fullmatch(found.text)) and (unit := parse_unit(behind[2])):
        found = replace(found, text=behind[1], unit=unit)
    if wanted and wanted.unit:
        found = take_unit(found, wanted.unit)
    named = assigned(found.text)
    text = named[1] if named else found.text
    if inside := components(text.strip()) or (components(text.strip()[1:-1]) if text.strip()[:1] == "(" else None):
        return found, inside
    row = parts(text)
    return (
        (found, row.items)
        if row and row.kind == "tuple" and row.brackets in ("()", "[]") and len(row.items) in (2, 3)
        else None
    )


def same_vector(spec: Answer, pair: tuple[Vector, Vector], algebra: Algebra, constant: Constant | None) -> bool | None:
    """Whether two vectors agree, each component within the tolerance of a number."""
    (stored, expected), (answer, found) = pair
    if not units_agree(spec, stored.unit, answer.unit):
        return False
    if {len(expected), len(found)} == {2, 3}:
        expected, found = ((*one, "0")[:3] for one in (expected, found))
    scale = answer.unit.factor / stored.unit.factor if stored.unit and answer.unit else Fraction(1)

    def same(wanted: str, given: str) -> bool | None:
        reference, x = read(wanted), exact(given)
        number = reference.number
        if number is None:
            return algebra(
                wanted, given if scale == 1 else f"({given})\\cdot\\frac{{{scale.numerator}}}{{{scale.denominator}}}"
            )
        if x is None:
            x = constant(given) if constant else None
        if x is None:
            return False if constant else None
        reference = replace(reference, unit=stored.unit)
        return abs(x * scale - number) <= allowed_error(spec, reference)

    return every(same(x, y) for x, y in zip(expected, found, strict=True))

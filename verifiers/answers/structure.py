"""Answers that have parts: lists, sets, tuples, intervals, unions, matrices, and inequalities read as intervals.

Texts come from `quantity.read`: tidied, without \\text{}, but with spaces, because " or " is a separator.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal

from .spelling import split_top, squeeze

Kind = Literal["list", "set", "tuple", "union", "matrix"]
_OR = re.compile(r",? (?:and|or) ")
_MEMBER = re.compile(r"[a-zA-Z]\s*\\in\s*")
_DOMAIN = re.compile(r"([a-zA-Z])\s*\\in\s*\\mathbb\s*\{?([NZQRC])\}?(?!\s*(?:[\^_]|\\setminus|\\backslash))")
_BUILDER = re.compile(r"\\\{\s*([a-zA-Z])\s*(?:\\in\s*\\mathbb\s*\{R\}\s*)?[|:]")
_MATRIX = re.compile(r"\\begin\s*\{([pbB]?matrix)\}")
_CASES = re.compile(r"\\begin\s*\{cases\}([^&]*)\\end\s*\{cases\}")
_BETWEEN = re.compile(r"([^<>=]{1,60}?)(<|\\le ?)([a-zA-Z])(<|\\le ?)([^<>=]{1,60})")
_ONE_SIDE = re.compile(r"([a-zA-Z])(<|>|\\le ?|\\ge ?)([^<>=a-z]{1,60}|[^<>=]{0,60}\\[^<>=]{1,60})")
_OTHER_SIDE = re.compile(r"([^<>=a-z]{1,60})(<|>|\\le ?|\\ge ?)([a-zA-Z])")
_ABSOLUTE = re.compile(r"\|([a-zA-Z])\|(<|>|\\le ?|\\ge ?)([^<>=|]{1,60})")
_NAME = (
    r"(\([a-z](?:, ?[a-z]){1,5}\)|(?:[a-zA-Z]|\\(?!sum|prod|int|lim|bigcup)[a-z]{2,8})'{0,3}(?:_(?:\{\w{1,8}\}|\w)|\([a-z]\))?)"
)
_ONE_NAME = re.compile(_NAME)
_ASSIGNED = re.compile(rf"{_NAME}\s*=\s*([^=<>]+|\\begin ?\{{cases\}}.*)", re.DOTALL)
_OPEN, _CLOSE = "([]", ")]["
FLIPPED = {"<": ">", ">": "<", "\\le": "\\ge", "\\ge": "\\le"}


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of one answer."""

    kind: Kind
    items: tuple[str, ...]
    brackets: str = ""  # both ends of a tuple or interval; rows x columns of a matrix
    variable: str = ""  # the name in an inequality

    @property
    def ordered(self) -> bool:
        return self.kind in ("tuple", "matrix")


def assigned(text: str) -> tuple[str, str] | None:
    """Name and value of `x = 5`, `f(x)=x^2`, `x_1=2`; None for other texts."""
    match = _ASSIGNED.fullmatch(text)
    return (squeeze(match[1]), match[2].strip()) if match else None


def other_domains(reference: str, answer: str) -> bool:
    """Whether both say of what kind a variable is, and not the same: k of Z and k of N. An interval is one of real numbers."""
    expected, found = dict(_DOMAIN.findall(reference)), dict(_DOMAIN.findall(answer))
    if found and not expected and (interval := _inequality(reference)) and found.get(interval.variable, "R") in "NZQ":
        return True
    return any(found.get(name, kind) != kind for name, kind in expected.items())


def is_name(text: str) -> bool:
    """Whether a text can stand on the left side of an assignment: x, f(x), x_1, \\theta."""
    return bool(_ONE_NAME.fullmatch(text)) and text not in ("e", "i", "\\pi", "\\infty")


def parts(text: str) -> Parts | None:
    """The parts of an answer; None for an answer without parts."""
    text = text.strip()
    if "\\begin" in text and "cases" in text and "&" in text:
        text = text.replace("&=", "=").replace("& =", "=")
        if "&" in text:  # a function by cases
            return None
    if match := _CASES.fullmatch(text):
        text = ", ".join(row.strip(" ,;") for row in match[1].split("\\\\") if row.strip(" ,;"))
    if match := _MEMBER.match(text):
        text = text[match.end() :]
    for read in (_builder, _vector, _union, _list, _bracketed, _matrix, _inequality, _ranking, _equal_names, _plus_minus):
        if found := read(text):
            return found
    return None


def _builder(text: str) -> Parts | None:
    match = _BUILDER.match(text)
    return _condition(text[match.end() :].removesuffix("\\}").strip()) if match and text.endswith("\\}") else None


def _condition(text: str) -> Parts | None:
    return _union(text) or _list(text) or _inequality(text)


def _union(text: str) -> Parts | None:
    if "\\cup" not in text:
        return None
    return Parts("union", tuple(part.strip() for part in text.split("\\cup")))


def _list(text: str) -> Parts | None:
    whole = _OR.sub(", ", text) if " or " in text or " and " in text else text
    items = [item for item in split_top(whole) if item]
    if len(items) < 2:
        return None
    items = [one for item in items for one in (_signs(item) if item.count("\\pm") == 1 else [item])]
    found = [assigned(item) for item in items]
    names = {pair[0].split("_")[0] for pair in found if pair}
    if len(names) == 1 and found[0] and (all(found) or not any(found[1:])):
        items = [pair[1] if pair else item for pair, item in zip(found, items, strict=True)]
    return Parts("list", tuple(items))


def _vector(text: str) -> Parts | None:
    if text.startswith("\\langle") and text.endswith("\\rangle") and text.count("\\langle") == 1:
        return Parts("tuple", tuple(split_top(text[7:-7])), "()")
    return None


def _bracketed(text: str) -> Parts | None:
    if text.startswith("\\{") and text.endswith("\\}"):
        inside = text[2:-2].strip()
        items = [item for item in split_top(inside) if item]
        point = _bracketed(items[0]) if len(items) == 1 else None
        return point or (Parts("set", tuple(items)) if items else None)
    if len(text) > 4 and text[0] in _OPEN and text[-1] in _CLOSE:
        items = split_top(text[1:-1])
        if len(items) > 1 and all(items):
            return Parts("tuple", tuple(items), {"]": "("}.get(text[0], text[0]) + {"[": ")"}.get(text[-1], text[-1]))
    return None


def _matrix(text: str) -> Parts | None:
    """A matrix, row by row; a single column is a tuple. A determinant is a number, so it is not taken apart."""
    match = _MATRIX.match(text)
    if not match or text.count("\\begin") != 1 or not text.endswith(f"\\end{{{match[1]}}}"):
        return None
    body = text[match.end() : text.rindex("\\end")]
    rows = [row for row in body.split("\\\\") if row.strip()]
    cells = [[cell.strip() for cell in row.split("&")] for row in rows]
    if not cells or len({len(row) for row in cells}) != 1:
        return None
    items = tuple(cell for row in cells for cell in row)
    if match[1] in ("pmatrix", "bmatrix") and len(cells[0]) == 1 and len(cells) > 1:
        return Parts("tuple", items, "()")
    return Parts("matrix", items, f"{len(rows)}x{len(cells[0])}")


def _inequality(text: str) -> Parts | None:
    text = squeeze(text)
    if match := _BETWEEN.fullmatch(text):
        low, first, name, second, high = match.groups()
        brackets = ("(" if first == "<" else "[") + (")" if second == "<" else "]")
        return Parts("tuple", (low, high), brackets, name)
    if match := _ABSOLUTE.fullmatch(text):
        name, sign, bound = match[1], match[2].strip(), match[3]
        open_, close = ("(", ")") if sign in "<>" else ("[", "]")
        below = f"-({bound})" if re.search(r"[+-]", bound) else f"-{bound}"
        if sign in ("<", "\\le"):
            return Parts("tuple", (below, bound), open_ + close, name)
        return Parts("union", (f"(-\\infty,{below}{close}", f"{open_}{bound},\\infty)"), variable=name)
    if match := _ONE_SIDE.fullmatch(text):
        return _half_line(match[1], match[2].strip(), match[3])
    if match := _OTHER_SIDE.fullmatch(text):
        return _half_line(match[3], FLIPPED[match[2].strip()], match[1])
    return None


def _half_line(name: str, sign: str, bound: str) -> Parts:
    if sign in ("<", "\\le"):
        return Parts("tuple", ("-\\infty", bound), "()" if sign == "<" else "(]", name)
    return Parts("tuple", (bound, "\\infty"), "()" if sign == ">" else "[)", name)


def _plus_minus(text: str) -> Parts | None:
    if text.count("\\pm") != 1 or text.startswith("\\begin"):
        return None
    return Parts("list", tuple(_signs(text)))


def _signs(text: str) -> list[str]:
    """Both readings of a \\pm."""
    return [text.replace("\\pm", "+", 1).lstrip("+ "), text.replace("\\pm", "-", 1)]


def is_order(found: Parts) -> bool:
    """Whether a list of single capitals, such as C, A, B, is an order, because it is not the alphabet's."""
    single = all(len(item) == 1 and item.isupper() for item in found.items)
    return found.kind == "list" and single and len(found.items) > 2 and list(found.items) != sorted(found.items)


def _equal_names(text: str) -> Parts | None:
    """x = y = 2 as x = 2, y = 2."""
    sides = [side.strip() for side in text.split("=")]
    names = [side for side in sides if is_name(side)]
    values = [side for side in sides if not is_name(side)]
    if not 3 <= len(sides) <= 6 or len(values) != 1 or len(set(names)) != len(names) or re.search(r"[<>]|\\[lg]e", text):
        return None
    return Parts("list", tuple(f"{name}={values[0]}" for name in names))


def _ranking(text: str) -> Parts | None:
    """A > B > C as the order from the smallest to the largest."""
    pieces = re.split(r"(<|>|\\le(?![a-z])|\\ge(?![a-z]))", squeeze(text))
    signs = {FLIPPED[sign] if sign in (">", "\\ge") else sign for sign in pieces[1::2]}
    rising = {sign in ("<", "\\le") for sign in pieces[1::2]}
    items = [piece.strip() for piece in pieces[::2]]
    if len(items) < 3 or len(signs) != 1 or len(rising) != 1 or not all(is_name(item) for item in items):
        return None
    return Parts("tuple", tuple(items if rising == {True} else items[::-1]), signs.pop())


def by_variable(found: Parts) -> Parts | None:
    """x=1, y=2 as the tuple (1,2); None unless every item sets another variable."""
    pairs = [pair for item in found.items if (pair := assigned(item))]
    names = [name for name, _ in pairs]
    if found.kind != "list" or len(pairs) != len(found.items) or len(set(names)) != len(names):
        return None
    return replace(found, kind="tuple", brackets="()", items=tuple(value for _, value in sorted(pairs)))

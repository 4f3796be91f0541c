r"""Residue classes: n \equiv 3 \pmod{4}, n = 3 mod 4, 4k + 3 and "odd" name sets of integers."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .structure import is_name

MAX_CHARS = 120
MAX_RESIDUES = 40
_MODULO = re.compile(
    r"(?P<left>.{1,80}?)[, ]*(?P<open>\(?) ?(?P<word>\\[pb]?mod|\\pod|(?<![a-zA-Z])mod(?:ulo)?)(?![a-zA-Z])"
    r" ?\{? ?(?P<modulus>\d{1,9}) ?\}? ?\)?"
)
_SIDES = re.compile(r"(?P<name>.{1,60}?) ?(?:\\equiv|\\cong|=) ?(?P<residues>[^=]{1,60})")
_RESIDUE = re.compile(r"[-+]? ?\d{1,18}")
_FAMILY = re.compile(
    r"(?P<a>\d{0,6}) ?\*?(?:\\cdot ?)?(?P<k>[a-z])(?: ?(?P<sign>[-+]|\\pm) ?(?P<b>\d{1,9}))?"
    r"|(?P<b2>\d{1,9}) ?\+ ?(?P<a2>\d{1,6}) ?(?P<k2>[a-z])"
)
_PARITY = re.compile(r"(odd|even)(?: (?:integers|numbers))?", re.IGNORECASE)
_NAMED = re.compile(r"(?P<name>[a-zA-Z]) ?= ?(?P<value>.*)")


@dataclass(frozen=True, slots=True)
class ResidueClasses:
    """The integers that leave one of some residues."""

    name: str  # of the integer; "" where the answer gives none
    residues: tuple[int, ...]  # as written
    modulus: int
    operation: bool = False  # written as 17 mod 5, which is 2

    def integers(self) -> frozenset[int]:
        return frozenset(one % self.modulus for one in self.residues)


def residue_classes(text: str) -> ResidueClasses | None:
    """The residue classes that a text names by a congruence; None for other texts."""
    if "mod" not in text or len(text) > MAX_CHARS:
        return None
    each = re.split(r" or |, (?=[a-zA-Z] ?\\equiv)", text) if text.count("mod") > 1 else []
    if len(each) > 1 and all(found := [residue_classes(one) for one in each]):
        classes = [one for one in found if one]
        if len({(one.name, one.modulus) for one in classes}) == 1:
            return ResidueClasses(classes[0].name, tuple(one.residues[0] for one in classes), classes[0].modulus)
    match = _MODULO.fullmatch(text)
    if not match or int(match["modulus"]) < 1:
        return None
    sides = _SIDES.fullmatch(match["left"])
    name, listed = (sides["name"].strip(), sides["residues"]) if sides else ("", match["left"])
    residues = _residues(listed)
    operation = not sides and not match["open"] and match["word"] != "\\pmod" and len(residues) == 1
    return ResidueClasses(name, residues, int(match["modulus"]), operation) if residues else None


def _residues(text: str) -> tuple[int, ...]:
    text = re.sub(r" (?:or|and) ", ", ", text)
    found: list[int] = []
    for piece in text.split(","):
        one = piece.strip().strip("()")
        both = one.removeprefix("\\pm").strip()
        if not _RESIDUE.fullmatch(both):
            return ()
        value = int(both.replace(" ", ""))
        found += [value, -value] if both != one else [value]
    return tuple(found) if len(found) <= MAX_RESIDUES else ()


def family(text: str) -> ResidueClasses | None:
    """The residue classes of 4k + 3, n = 6k \\pm 1, odd; None for other texts."""
    if len(text) > MAX_CHARS:
        return None
    if parity := _PARITY.fullmatch(text):
        return ResidueClasses("", (int(parity[1].lower() == "odd"),), 2)
    named = _NAMED.fullmatch(text)
    residues: list[int] = []
    modulus = 0
    for piece in re.sub(r" (?:or|and) ", ", ", named["value"] if named else text).split(","):
        match = _FAMILY.fullmatch(piece.strip())
        if not match:
            return None
        step, rest = int(match["a"] or match["a2"] or 1), int(match["b"] or match["b2"] or 0)
        if step < 2 or (modulus and step != modulus):
            return None
        modulus = step
        residues += [rest, -rest] if match["sign"] == "\\pm" else [-rest if match["sign"] == "-" else rest]
    return ResidueClasses(named["name"] if named else "", tuple(residues), modulus)


def same_residues(reference: str, answer: str) -> bool | None:
    """Compare two texts of which one at least is a congruence; None where neither is, or the other cannot be read as one."""
    x, y = residue_classes(reference), residue_classes(answer)
    if x is None and y is None:
        return None
    if x is None and re.fullmatch(r"\d{1,18}", reference) and y:  # the remainder of a power
        met = y.integers() == {int(reference)} if y.operation else y.residues == (int(reference),)
        return met and not is_name(y.name)
    if y is None and re.fullmatch(r"\d{1,18}", answer) and x:
        return x.residues == (int(answer),) and not x.name
    x, y = x or family(reference), y or family(answer)
    if x is None or y is None:
        return None
    if x.name and y.name and x.name.replace(" ", "") != y.name.replace(" ", ""):
        return False
    return x.modulus == y.modulus and x.integers() == y.integers()

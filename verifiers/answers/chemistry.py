"""Formulas of substances, in which capitals matter: CO is not Co, and H_2O is H2O in every typesetting; names count as well."""

from __future__ import annotations

import re

from .compounds import ELEMENT_SYMBOLS, formulas
from .spelling import plain, squeeze, tidy, unwrap

_SYMBOL = re.compile(r"[A-Z][a-z]?")
_FORMULA = re.compile(r"(?:[A-Z][a-z]?|[()\[\]]|\d)+(?:\d?[+-]|[+-]\d)?(?:\((?:s|l|g|aq)\))?")
_HYDRATE = re.compile(r"([A-Za-z0-9()]{2,40})(?:\\cdot ?|\*|\.)(\d{0,2})H2O")
_HYBRID = re.compile(r"(?:d\d?)?sp\d?(?:d\d?)?")  # sp3, dsp2, sp3d2
_PHASE = re.compile(r"\((?:s|l|g|aq)\)\Z")
_CHARGE = re.compile(r"([+-])(\d)\Z")  # +2 for 2+
_CONFIGURATION = re.compile(r"(?:\[[A-Z][a-z]\])?(?:[1-7][spdf]\d{1,2})+")  # electron configuration
_ARTICLE = re.compile(r"\A(?:the|an?) ", re.IGNORECASE)
MAX_FORMULA_CHARS = 60


def formula(text: str) -> str | None:
    """A substance or an electron configuration, without typesetting and phase; None for anything else."""
    flat = re.sub(r"[_^{}]", "", squeeze(plain(unwrap(tidy(text)))))
    if _HYBRID.fullmatch(flat):
        return flat
    if hydrate := _HYDRATE.fullmatch(flat):
        salt, count = formula(hydrate[1]), hydrate[2] or "1"
        return salt and f"{salt}*{'' if count == '1' else count}H2O"
    if len(flat) <= MAX_FORMULA_CHARS and _CONFIGURATION.fullmatch(flat.replace(" ", "")):
        return flat.replace(" ", "")
    if len(flat) > MAX_FORMULA_CHARS or not _FORMULA.fullmatch(flat):
        return None
    flat = _CHARGE.sub(r"\2\1", _PHASE.sub("", flat))
    symbols = _SYMBOL.findall(flat)
    return flat if symbols and all(symbol in ELEMENT_SYMBOLS for symbol in symbols) else None


def same_chemical(reference: str, answer: str) -> bool | None:
    """Whether two substances are the same, by formula or by name; None where the texts may be something else (PV may be a
    product).
    """
    expected, found = formula(reference), formula(answer)
    if expected == "No":
        return None
    if expected is None or found is None:
        return True if _same_by_name(reference, expected, answer, found) else None
    if expected == found:
        return True
    # a small letter makes an element's symbol certain
    certain = all(any(map(str.islower, one)) for one in (expected, found))
    return False if certain or expected.lower() == found.lower() else None


def _same_by_name(reference: str, expected: str | None, answer: str, found: str | None) -> bool:
    """Whether the formulas of two substances meet, of which at least one is given by its name."""
    if expected is None and found is None and _name(reference).endswith("acid") != _name(answer).endswith("acid"):
        return False
    one = frozenset({expected}) if expected else formulas(_name(reference))
    other = frozenset({found}) if found else formulas(_name(answer))
    return bool(one & other)


def _name(text: str) -> str:
    flat = plain(unwrap(tidy(text)))
    return _ARTICLE.sub("", flat) if len(flat) <= MAX_FORMULA_CHARS else ""

"""Formulas of substances, in which capitals matter: CO is not Co, and H_2O is H2O in every typesetting."""

from __future__ import annotations

import re

from .spelling import plain, squeeze, tidy, unwrap

_NAMES = (
    "H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr Rb Sr Y Zr Nb Mo Tc "
    "Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi "
    "Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf Es Fm Md No Lr Rf Db Sg Bh Hs Mt Ds Rg Cn Nh Fl Mc Lv Ts Og"
)
_ELEMENTS = frozenset(_NAMES.split())
_SYMBOL = re.compile(r"[A-Z][a-z]?")
_FORMULA = re.compile(r"(?:[A-Z][a-z]?|[()\[\]]|\d)+(?:\d?[+-]|[+-]\d)?(?:\((?:s|l|g|aq)\))?")
_PHASE = re.compile(r"\((?:s|l|g|aq)\)\Z")
_CHARGE = re.compile(r"([+-])(\d)\Z")  # +2 for 2+
_CONFIGURATION = re.compile(r"(?:\[[A-Z][a-z]\])?(?:[1-7][spdf]\d{1,2})+")  # electron configuration
MAX_FORMULA_CHARS = 60


def formula(text: str) -> str | None:
    """A substance or an electron configuration, without typesetting and phase; None for anything else."""
    flat = re.sub(r"[_^{}]", "", squeeze(plain(unwrap(tidy(text)))))
    if len(flat) <= MAX_FORMULA_CHARS and _CONFIGURATION.fullmatch(flat.replace(" ", "")):
        return flat.replace(" ", "")
    if len(flat) > MAX_FORMULA_CHARS or not _FORMULA.fullmatch(flat):
        return None
    flat = _CHARGE.sub(r"\2\1", _PHASE.sub("", flat))
    symbols = _SYMBOL.findall(flat)
    return flat if symbols and all(symbol in _ELEMENTS for symbol in symbols) else None


def same_chemical(reference: str, answer: str) -> bool | None:
    """Whether two substances are the same; None where the texts may be something else (PV may be a product)."""
    expected, found = formula(reference), formula(answer)
    if expected is None or found is None or expected == "No":
        return None
    if expected == found:
        return True
    # a small letter makes an element's symbol certain
    certain = all(any(map(str.islower, one)) for one in (expected, found))
    return False if certain or expected.lower() == found.lower() else None

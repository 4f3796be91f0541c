r"""The commands of LaTeX's package siunitx: \SI{9.8}{\metre\per\second\squared}, \qty, \num, \unit, \si and \ang."""

from __future__ import annotations

import re

_COMMAND = re.compile(r"\\(?:SI|qty|num|unit|si|ang)\b")
_OPTIONS = re.compile(r"(\\(?:SI|qty|num|unit|si|ang))\s*\[[^\[\]]{0,200}\]")
_GROUP = r"\{((?:[^{}]|\{[^{}]{0,40}\}){0,200})\}"
_QUANTITY = re.compile(rf"\\(?:SI|qty)\s*{_GROUP}\s*{_GROUP}")
_UNIT = re.compile(rf"\\(?:unit|si)\s*{_GROUP}")
_NUMBER = re.compile(rf"\\num\s*{_GROUP}")
_ANGLE = re.compile(rf"\\ang\s*{_GROUP}")
_MACRO = re.compile(r"\\([a-zA-Z]+)\s*(?:\{(-?\d)\}|\{([^{}]{0,40})\})?|~|\.|\s+|([^\\~.\s]+)")
_SPECIAL = {
    "degreeCelsius": "^\\circ C", "celsius": "^\\circ C", "degree": "^\\circ", "percent": "%", "ohm": "\\Omega",
    "micro": "micro", "angstrom": "\\AA", "electronvolt": "eV", "astronomicalunit": "AU", "atomicmassunit": "u",
    "dalton": "Da", "litre": "L", "liter": "L", "metre": "m", "meter": "m", "mmHg": "mmHg", "mole": "mol", "bar": "bar",
    "decibel": "dB", "tonne": "t",
}  # fmt: skip
_PREFIXES = frozenset(
    ["femto", "pico", "nano", "micro", "milli", "centi", "deci", "deca", "hecto", "kilo", "mega", "giga", "tera"]
)
_SHORT = {"hecto": "h", "femto": "f", "nano": "n", "pico": "p", "micro": "\\mu ", "milli": "m", "centi": "c", "deci": "d"} | {
    "kilo": "k", "mega": "M", "giga": "G", "tera": "T", "deca": "da"
}  # fmt: skip
_SYMBOLS = {  # what a prefix stands before
    "gram": "g", "second": "s", "ampere": "A", "kelvin": "K", "newton": "N", "joule": "J", "watt": "W", "pascal": "Pa",
    "hertz": "Hz", "coulomb": "C", "volt": "V", "farad": "F", "siemens": "S", "henry": "H", "tesla": "T", "weber": "Wb",
    "becquerel": "Bq", "gray": "Gy", "sievert": "Sv", "candela": "cd", "lumen": "lm", "lux": "lx", "radian": "rad",
    "molar": "M", "minute": "min", "hour": "h", "day": "d", "hectare": "ha",
}  # fmt: skip


def expanded(latex: str) -> str:
    """The text with siunitx's commands written out; any other text as it is."""
    if not _COMMAND.search(latex):
        return latex
    text = _OPTIONS.sub(r"\1", latex)
    text = _QUANTITY.sub(lambda match: f"{_number(match[1])}\\ \\text{{{_unit(match[2])}}}", text)
    text = _UNIT.sub(lambda match: f"\\text{{{_unit(match[1])}}}", text)
    text = _ANGLE.sub(lambda match: f"{_number(match[1])}^\\circ", text)
    return _NUMBER.sub(lambda match: _number(match[1]), text)


def _number(text: str) -> str:
    """A number as siunitx takes it: 1.6e-19, 4,5 and 5.0 +- 0.1."""
    text = text.strip().replace("+-", "\\pm ").replace("x10", "\\times 10").replace("*10", "\\times 10")
    return re.sub(r"(?<=\d),(?=\d{1,2}\Z)", ".", text)


def _unit(text: str) -> str:
    """`\\metre\\per\\second\\squared` as `m s^{-2}`."""
    out: list[str] = []
    prefix, sign, power = "", "", 1
    for macro, exponent, qualifier, literal in _MACRO.findall(text):
        if literal:
            out.append(literal)
        elif macro in ("squared", "cubed", "tothe", "raiseto") and out:
            given = {"squared": "2", "cubed": "3"}.get(macro, exponent or "1")
            base, _, had = out[-1].partition("^{")
            out[-1] = f"{base}^{{{'-' if had.startswith('-') else ''}{given}}}"
        elif macro in ("square", "cubic"):
            power = 2 if macro == "square" else 3
        elif macro == "per":
            sign = "-"
        elif macro in _PREFIXES:
            prefix = _SHORT[macro]
        elif macro and macro not in ("text", "mathrm", "of"):
            name = prefix + _SPECIAL.get(macro, _SYMBOLS.get(macro, macro))
            out.append(f"{name}^{{{sign}{power}}}" if sign or power > 1 else name)
            prefix, sign, power = "", "", 1
        elif qualifier:
            out.append(qualifier)
    return " ".join(out)

"""Units of answers: the quantity that a text such as `m s^{-2}`, `km/h` or `square centimeters` measures, with its factor.

A unit is an exact factor to SI, the powers of its base quantities and, for degrees Celsius and Fahrenheit, an offset. Words
without a conversion between them, such as `east` and `west`, are base quantities of their own; on request any other noun is one
too, so that cells/mL is compared with cells per litre.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from .inflection import singular

MAX_UNIT_CHARS = 80
NOUN = "noun:"  # how the base quantity of a counted thing begins
_PI = Fraction("3.14159265358979323846264338327950288")
_TOKEN = re.compile(
    r"(?P<name>\^\\circ ?[CF]?\b|\^\\circ|(?:\\mu ?|\\Omega|\\AA|\\\$|[%A-Za-z€£¥])(?:\\Omega|[A-Za-z])*)"
    r"|(?P<power>\^?\{?(?P<exponent>-?\d)\}?)|(?P<slash>/)|(?P<open>\()|(?P<close>\))|(?P<join>\\cdot|\\times|[*.\- ])"
)
_TEMPERATURE = re.compile(
    r"(?:degrees? |deg\.? |\^\\circ ?)(c(?=elsius|\b)|f(?=ahrenheit|\b)|k(?=elvin|\b))[a-z]*", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit: value in SI = number * factor + offset."""

    factor: Fraction
    powers: tuple[tuple[str, int], ...]
    offset: Fraction = Fraction(0)

    def agrees(self, other: Unit) -> bool:
        """Whether both measure the same quantity; turns and radians may be left out, as in rad/s and 1/s.

        Nouns may be more exact on one side: 4 electrons are 4 valence electrons, and 240 cells/mL 240/mL.
        """
        (known, nouns), (others, their_nouns) = _apart(self.powers), _apart(other.powers)
        if not (nouns <= their_nouns or their_nouns <= nouns) or (
            not known and not (nouns and their_nouns) and nouns != their_nouns
        ):
            return False
        return known == others or _turnless(known) == others or known == _turnless(others)

    @property
    def has_nouns(self) -> bool:
        """Whether it counts something: cells/mL."""
        return bool(_apart(self.powers)[1])

    @property
    def is_count(self) -> bool:
        """Whether it is made of nouns alone: 5 photons."""
        return not _apart(self.powers)[0]


def _apart(powers: tuple[tuple[str, int], ...]) -> tuple[tuple[tuple[str, int], ...], frozenset[tuple[str, int]]]:
    """Base quantities, and the nouns that count something."""
    nouns = frozenset(power for power in powers if power[0].startswith(NOUN))
    return tuple(power for power in powers if power not in nouns), nouns


def _turnless(powers: tuple[tuple[str, int], ...]) -> tuple[tuple[str, int], ...] | None:
    rest = tuple(power for power in powers if power[0] not in ("angle", "cycle"))
    return rest or None


def _unit(factor: str | Fraction, powers: str, offset: str = "0") -> Unit:
    """Make a unit; `powers` is a text such as "m s-2"."""
    parsed = (re.fullmatch(r"((?:noun:)?[a-z]+)(-?\d)?", part) for part in powers.split())
    return Unit(Fraction(factor), tuple(sorted((m[1], int(m[2] or 1)) for m in parsed if m)), Fraction(offset))


PREFIXES = {
    "T": "1e12", "G": "1e9", "M": "1e6", "k": "1e3", "K": "1e3", "h": "1e2", "d": "1e-1", "c": "1e-2", "m": "1e-3",
    "\\mu": "1e-6", "u": "1e-6", "n": "1e-9", "p": "1e-12", "f": "1e-15",
}  # fmt: skip
PREFIX_WORDS = {
    "tera": "1e12", "giga": "1e9", "mega": "1e6", "kilo": "1e3", "deci": "1e-1", "centi": "1e-2", "milli": "1e-3",
    "micro": "1e-6", "nano": "1e-9", "pico": "1e-12",
}  # fmt: skip
SYMBOLS = {  # units that take prefixes
    "m": _unit("1", "m"),
    "g": _unit("1e-3", "kg"),
    "s": _unit("1", "s"),
    "A": _unit("1", "a"),
    "K": _unit("1", "k"),
    "mol": _unit("1", "mol"),
    "cd": _unit("1", "cd"),
    "N": _unit("1", "kg m s-2"),
    "J": _unit("1", "kg m2 s-2"),
    "W": _unit("1", "kg m2 s-3"),
    "Pa": _unit("1", "kg m-1 s-2"),
    "Hz": _unit("1", "cycle s-1"),
    "C": _unit("1", "a s"),
    "V": _unit("1", "kg m2 s-3 a-1"),
    "\\Omega": _unit("1", "kg m2 s-3 a-2"),
    "F": _unit("1", "kg-1 m-2 s4 a2"),
    "S": _unit("1", "kg-1 m-2 s3 a2"),
    "H": _unit("1", "kg m2 s-2 a-2"),
    "T": _unit("1", "kg s-2 a-1"),
    "Wb": _unit("1", "kg m2 s-2 a-1"),
    "Bq": _unit("1", "s-1"),
    "Gy": _unit("1", "m2 s-2"),
    "Sv": _unit("1", "m2 s-2"),
    "L": _unit("1e-3", "m3"),
    "l": _unit("1e-3", "m3"),
    "M": _unit("1e3", "mol m-3"),
    "eV": _unit("1.602176634e-19", "kg m2 s-2"),
    "cal": _unit("4.184", "kg m2 s-2"),
    "Wh": _unit("3600", "kg m2 s-2"),
    "bar": _unit("1e5", "kg m-1 s-2"),
    "rad": _unit("1", "angle"),
    "lm": _unit("1", "cd"),
    "lx": _unit("1", "cd m-2"),
    "pc": _unit("3.0857e16", "m"),
}
WHOLE = {  # units that take none
    "^\\circ": _unit(_PI / 180, "angle"),
    "deg": _unit(_PI / 180, "angle"),
    "rev": _unit(2 * _PI, "angle"),
    "rpm": _unit(_PI / 30, "angle s-1"),
    "^\\circC": _unit("1", "k", "273.15"),
    "^\\circF": _unit(Fraction(5, 9), "k", str(Fraction("459.67") * 5 / 9)),
    "min": _unit("60", "s"),
    "h": _unit("3600", "s"),
    "hr": _unit("3600", "s"),
    "sec": _unit("1", "s"),
    "d": _unit("86400", "s"),
    "wk": _unit("604800", "s"),
    "yr": _unit("31557600", "s"),
    "in": _unit("0.0254", "m"),
    "ft": _unit("0.3048", "m"),
    "yd": _unit("0.9144", "m"),
    "mi": _unit("1609.344", "m"),
    "mph": _unit("0.44704", "m s-1"),
    "kph": _unit(Fraction(5, 18), "m s-1"),
    "AU": _unit("1.495978707e11", "m"),
    "ly": _unit("9.4607304725808e15", "m"),
    "\\AA": _unit("1e-10", "m"),
    "lb": _unit("0.45359237", "kg"),
    "lbs": _unit("0.45359237", "kg"),
    "oz": _unit("0.028349523125", "kg"),
    "t": _unit("1000", "kg"),
    "u": _unit("1.66053906660e-27", "kg"),
    "amu": _unit("1.66053906660e-27", "kg"),
    "Da": _unit("1.66053906660e-27", "kg"),
    "atm": _unit("101325", "kg m-1 s-2"),
    "torr": _unit(Fraction(101325, 760), "kg m-1 s-2"),
    "Torr": _unit(Fraction(101325, 760), "kg m-1 s-2"),
    "mmHg": _unit(Fraction(101325, 760), "kg m-1 s-2"),
    "psi": _unit("6894.757293168", "kg m-1 s-2"),
    "hp": _unit("745.69987158227022", "kg m2 s-3"),
    "dyn": _unit("1e-5", "kg m s-2"),
    "erg": _unit("1e-7", "kg m2 s-2"),
    "gauss": _unit("1e-4", "kg s-2 a-1"),
    "Ci": _unit("3.7e10", "s-1"),
    "ha": _unit("10000", "m2"),
    "cc": _unit("1e-6", "m3"),
    "gal": _unit("3.785411784e-3", "m3"),
    "\\$": _unit("1", "dollar"),
    "USD": _unit("1", "dollar"),
    "€": _unit("1", "euro"),
    "£": _unit("1", "pound"),
    "¥": _unit("1", "yen"),
    "ppm": _unit("1e-6", "share"),
    "ppb": _unit("1e-9", "share"),
    "bpm": _unit(Fraction(1, 60), "noun:beat s-1"),
    "Btu": _unit("1055.05585262", "kg m2 s-2"),
    "BTU": _unit("1055.05585262", "kg m2 s-2"),
    "lbf": _unit("4.4482216152605", "kg m s-2"),
    "slug": _unit("14.59390294", "kg"),
    "cP": _unit("1e-3", "kg m-1 s-1"),
    "kt": _unit(Fraction(1852, 3600), "m s-1"),
    "qt": _unit("9.46352946e-4", "m3"),
    "kgf": _unit("9.80665", "kg m s-2"),
    "dB": _unit("1", "decibel"),
}
NAMES = {  # word -> key of SYMBOLS
    "meter": "m", "metre": "m", "gram": "g", "gm": "g", "second": "s", "ampere": "A", "amp": "A", "kelvin": "K",
    "mole": "mol", "newton": "N", "joule": "J", "watt": "W", "pascal": "Pa", "hertz": "Hz", "coulomb": "C", "volt": "V",
    "ohm": "\\Omega", "farad": "F", "henry": "H", "tesla": "T", "weber": "Wb", "siemen": "S", "siemens": "S",
    "becquerel": "Bq", "liter": "L", "litre": "L", "molar": "M", "electronvolt": "eV", "calorie": "cal", "radian": "rad",
    "parsec": "pc", "gray": "Gy", "sievert": "Sv", "candela": "cd", "lumen": "lm", "lux": "lx", "bar": "bar",
    "gramme": "g",
}  # fmt: skip
WHOLE_NAMES = {  # word -> key of WHOLE
    "degree": "^\\circ", "revolution": "rev", "minute": "min", "hour": "h", "day": "d", "week": "wk", "year": "yr",
    "inch": "in", "inche": "in", "foot": "ft", "feet": "ft", "yard": "yd", "mile": "mi", "pound": "lb", "ounce": "oz",
    "tonne": "t", "atmosphere": "atm", "celsius": "^\\circC", "fahrenheit": "^\\circF", "acre": "acre", "hectare": "ha",
    "sec": "sec", "min": "min", "hr": "h", "wk": "wk", "yr": "yr", "dollar": "\\$", "euro": "€", "gallon": "gal",
    "angstrom": "\\AA", "horsepower": "hp", "dyne": "dyn", "knot": "kt", "quart": "qt", "dalton": "Da", "ton": "t",
    "lightyear": "ly",
}  # fmt: skip
WHOLE["AM"], WHOLE["PM"] = _unit("1", "am"), _unit("1", "pm")
WHOLE["kmh"] = WHOLE["kmph"] = WHOLE["kph"]
WHOLE["acre"] = _unit("4046.8564224", "m2")
WHOLE["cent"] = WHOLE["cents"] = _unit("1e-2", "dollar")
MARKS = (
    "north", "south", "east", "west", "left", "right", "up", "down", "clockwise", "counterclockwise",
    "profit", "loss", "increase", "decrease", "month",
)  # fmt: skip
POWER_WORDS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}
AFTER_WORDS = {"squared": 2, "cubed": 3}


# words behind a number that are no counted things
NOT_COUNTED = frozenset({
    "the", "and", "or", "to", "of", "in", "on", "at", "by", "from", "above", "below", "away", "along", "into", "toward",
    "towards", "for", "with", "than", "more", "less", "about", "is", "are", "was", "times", "over", "plus",
    "minus", "mod", "choose", "factorial", "percent", "sin", "cos", "tan", "cot", "sec", "csc", "log", "ln", "exp",
    "sqrt", "max", "min", "lim", "det", "not", "that", "which", "when", "if", "as", "be", "approximately", "million",
    "billion", "thousand", "hundred", "dozen", "trillion", "respectively", "each", "total", "units", "unit", "per",
    "arcsin", "arccos", "arctan", "sinh", "cosh", "tanh",
})  # fmt: skip
_SHORT_NOUNS = frozenset(
    {"ion", "ions", "men", "man", "cow", "cat", "cats", "dog", "dogs", "egg", "eggs", "car", "cars", "bit", "bits"}
)


def _noun(name: str, *, marked: bool) -> Unit | None:
    """A counted thing as a base quantity: photon for photons. marked: it stood in \\text{}, so it is no product."""
    word = name.lower()
    if not word.isalpha() or not word.isascii() or word in NOT_COUNTED or not re.search("[aeiouy]", word):
        return None
    if len(word) < 4 and not (word in _SHORT_NOUNS or (marked and len(word) == 3)):
        return None
    return Unit(Fraction(1), ((f"{NOUN}{singular(word)}", 1),))


def _named(name: str) -> Unit | None:
    """The unit of one symbol or word, or None."""
    name = name.replace(" ", "")
    if name in WHOLE:
        return WHOLE[name]
    if name in SYMBOLS:
        return SYMBOLS[name]
    for prefix, scale in PREFIXES.items():
        rest = name.removeprefix(prefix)
        if rest != name and rest in SYMBOLS:
            return _scaled(SYMBOLS[rest], Fraction(scale))
    word = name.lower()
    word = word if word in NAMES or word in MARKS else word.removesuffix("s")
    word = word if word in MARKS else word.removesuffix("ward")
    if word in MARKS:
        return Unit(Fraction(1), ((word, 1),))
    if word in WHOLE_NAMES:
        return WHOLE[WHOLE_NAMES[word]]
    if word in NAMES:
        return SYMBOLS[NAMES[word]]
    for prefix, scale in PREFIX_WORDS.items():
        rest = word.removeprefix(prefix)
        if rest != word and rest in NAMES:
            return _scaled(SYMBOLS[NAMES[rest]], Fraction(scale))
    return None


def _scaled(unit: Unit, scale: Fraction) -> Unit:
    return Unit(unit.factor * scale, unit.powers)


def _product(factors: list[tuple[Unit, int]]) -> Unit | None:
    """Multiply units with their exponents. An offset has no meaning in a product: there a degree Celsius is a kelvin."""
    if len(factors) == 1 and factors[0][1] == 1:
        return factors[0][0]
    scale, powers = Fraction(1), {}
    for unit, exponent in factors:
        scale *= unit.factor**exponent
        for base, power in unit.powers:
            powers[base] = powers.get(base, 0) + power * exponent
    kept = tuple(sorted((base, power) for base, power in powers.items() if power))
    return Unit(scale, kept) if kept else None


@lru_cache(maxsize=4096)
def parse_unit(text: str, *, nouns: bool = False, marked: bool = False) -> Unit | None:
    """The unit that the whole text names, or None. Brackets may not be nested.

    nouns: words without an entry in the tables count as units. marked: they stood in \\text{}.
    """
    text = text.strip().strip(".").replace("a.m", "AM").replace("p.m", "PM").replace("mm Hg", "mmHg")
    text = text.replace("light years", "lightyear").replace("light year", "lightyear").replace("light-year", "lightyear")
    text = _TEMPERATURE.sub(lambda match: "K" if match[1] in "kK" else f"^\\circ {match[1].upper()}", text)
    if not 0 < len(text) <= MAX_UNIT_CHARS:
        return None
    factors: list[tuple[Unit, int]] = []
    sign, at, grouped, power_word = 1, 0, False, 1
    while at < len(text):
        match = _TOKEN.match(text, at)
        if not match:
            return None
        at = match.end()
        name = match["name"]
        if match["slash"] or name == "per":
            sign = -1
        elif match["open"]:
            grouped = True
        elif match["close"]:
            grouped, sign = False, 1
        elif name in POWER_WORDS:
            power_word = POWER_WORDS[name]
        elif match["power"] or name in AFTER_WORDS:
            if not factors:
                return None
            exponent = AFTER_WORDS[name] if name else int(match["exponent"])
            factors[-1] = (factors[-1][0], factors[-1][1] * exponent)
        elif name:
            unit = _named(name) or (_noun(name, marked=marked) if nouns else None)
            if unit is None:
                return None
            # below the stroke as J/mol K, but 10 m/s east and 30 g/mL protein
            is_remark = bool(factors) and not grouped and all(base in MARKS or base.startswith(NOUN) for base, _ in unit.powers)
            factors.append((unit, power_word * (1 if is_remark and sign < 0 and factors[-1][1] < 0 else sign)))
            power_word = 1
    return _product(factors) if factors else None

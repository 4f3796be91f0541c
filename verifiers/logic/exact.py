r"""Scorers for puzzles of Reasoning Gym that have one answer: it is right, or it earns nothing.

The library pays for such puzzles by likeness: the share of a text that the answer makes up ("True False" earns .4), the cells
or letters that happen to agree (a board without a living cell earns .8), the distance to a number. A constant, or a copy of
the question, is paid for that. Here an answer is compared by what it says (a number, a list, a grid, a text), so that commas,
brackets, quotes, case and spaces do not decide.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from .arithmetic import evaluate
from .readings import items, parse_json, plain_text, ratio, rows, same_items, same_rows, written_number

Entry = dict[str, Any]  # of Reasoning Gym: question, answer, metadata
Scorer = Callable[[str, Entry], float]

# behind a number these change its value, or hedge
_NO_UNIT = frozenset({
    "and", "or", "not", "but", "rather", "no", "maybe", "if", "else", "unless", "except", "to", "than", "then", "more", "less",
    "fewer", "minus", "plus", "times", "mod", "per", "over", "point", "percent", "squared", "cubed", "factorial", "hundred",
    "hundreds", "thousand", "thousands", "million", "billion", "trillion", "dozen", "dozens", "half", "halves", "third",
    "thirds", "true", "false", "yes", "none", "wrong", "quarter", "quarters", "fourths",
    "fifths", "sixths", "tenth", "tenths", "hundredth", "hundredths", "thousandths",
})  # fmt: skip
_COUNTED = re.compile(r"(\S{1,60}) ?(?:°|([A-Za-z]{3,20}(?: [A-Za-z]{2,20}){0,2}))?")
_SAYS = {"yes": "true", "no": "false"}
_ROLES = re.compile(r"[^\w\s'-]+")
_WEEKDAY_OR_WORD = re.compile(r"[A-Za-z]+")
_CLOCK = re.compile(
    r"(?:(-?\d{1,6}) +days?,? *(?:and )?)?(\d{1,3}):(\d{2})(?::(\d{2})(?:\.(\d{1,6}))?)?", re.ASCII | re.IGNORECASE
)
_DAYS = re.compile(r"(\d{1,7})(?: +days?)?", re.ASCII | re.IGNORECASE)
_BASE = re.compile(r"\(?([0-9a-z]+)\)?(?:_\{?(\d{1,2})\}?)?", re.ASCII)
_BLANKS = re.compile(r"\s+")


def counted(text: str) -> Fraction:
    """A number, also with a unit behind it, or as the last side of an equation that holds. Raises ValueError."""
    before, equals, behind = plain_text(text).rpartition("=")
    value = _with_unit(behind.strip().removeprefix("\\").removeprefix("$"))
    if equals and not re.fullmatch(r"[A-Za-z]", before.strip()) and evaluate(before)[0] != value:
        raise ValueError("an equation that does not hold")
    return value


def _with_unit(text: str) -> Fraction:
    try:
        return written_number(text)
    except ValueError:
        match = _COUNTED.fullmatch(text)
    if match is None or (match[2] and not _NO_UNIT.isdisjoint(match[2].casefold().split())):
        raise ValueError("not a number, or one with more than a unit behind it")
    return written_number(match[1])


def as_number(text: str, entry: Entry) -> float:
    return float(counted(text) == written_number(str(entry["answer"])))


def as_text(text: str, entry: Entry) -> float:
    return float(_squeezed(text) == _squeezed(str(entry["answer"])))


def as_text_with_case(text: str, entry: Entry) -> float:
    return float(_BLANKS.sub(" ", text).strip() == _BLANKS.sub(" ", str(entry["answer"])).strip())


def _squeezed(text: str) -> str:
    """The text in small letters; spaces, quotes around it and the full stop behind it do not count."""
    return _BLANKS.sub(" ", plain_text(text)).casefold().rstrip(".").strip("\"' ")


def as_letters(text: str, entry: Entry) -> float:
    """One word: spaces between its letters do not count, and it may be a list of letters."""
    expected = "".join(_squeezed(str(entry["answer"])).split())
    if text.startswith("["):
        return float("".join(items(text)).casefold() == expected)
    return float("".join(_squeezed(text).split()) == expected)


def as_truth(text: str, entry: Entry) -> float:
    """True or yes, False or no."""
    given, expected = _squeezed(text), _squeezed(str(entry["answer"]))
    return float(_SAYS.get(given, given) == _SAYS.get(expected, expected))


def as_items(text: str, entry: Entry) -> float:
    """A list, whose stored form may be one of Python's. The empty list must be written as one."""
    expected = items(str(entry["answer"]))
    return float(same_items(items(text), expected) and bool(expected or text.strip() == "[]"))


def as_items_with_case(text: str, entry: Entry) -> float:
    return float(same_items(items(text), items(str(entry["answer"])), case=True))


def as_grid(text: str, entry: Entry) -> float:
    """Rows of cells. One row may be a list."""
    expected = rows(str(entry["answer"]))
    if len(expected) == 1 and "\n" not in text.strip() and not text.startswith("[["):
        return float(same_items(items(text), expected[0]))
    return float(same_rows(rows(text), expected))


def as_picture(text: str, entry: Entry) -> float:
    """A grid of signs that stand close together."""
    given, expected = (["".join(row.split()) for row in board.splitlines()] for board in (text, str(entry["answer"])))
    return float([row for row in given if row] == [row for row in expected if row])


def output_grid(text: str, entry: Entry) -> float:
    """Theirs is never equal, because JSON stores the tuples of its boards as lists."""
    expected = [[str(cell) for cell in row] for row in entry["metadata"]["output"]]
    if len(expected) == 1 and not text.startswith("[["):
        return float("\n" not in text.strip() and same_items(items(text), expected[0]))
    return float(same_rows(rows(text), expected))


def as_json(text: str, entry: Entry) -> float:
    """A JSON value, or the same text; a stored text may come without its quotes."""
    expected = str(entry["answer"]).strip()
    if text.strip() == expected:
        return 1.0
    try:
        value = parse_json(expected)
    except ValueError:
        return 0.0
    return float(text.strip() == value if isinstance(value, str) else parse_json(text) == value)


def solved_grid(text: str, entry: Entry) -> float:
    """The numbers of a solved board; signs between them, and lines without a number, do not count."""
    lines = text.splitlines()
    given = rows(text) if text.startswith("[") else [re.findall(r"\d+", line, re.ASCII) for line in lines]
    return float(
        same_rows([row for row in given if row], [[str(cell) for cell in row] for row in entry["metadata"]["solution"]])
    )


def pool_matrix(text: str, entry: Entry) -> float:
    """Theirs pays .1 for any matrix of the right shape. Within one percent, as theirs."""
    given, expected = rows(text), rows(str(entry["answer"]))
    if [len(row) for row in given] != [len(row) for row in expected]:
        return 0.0
    pairs = [
        (written_number(a), written_number(b))
        for one, other in zip(given, expected, strict=True)
        for a, b in zip(one, other, strict=True)
    ]
    return float(all(abs(a - b) <= abs(b) / 100 for a, b in pairs))


def reduced_fraction(text: str, entry: Entry) -> float:
    r"""Numerator and denominator as stored, so that the fraction must be reduced."""
    return float(ratio(text) == ratio(str(entry["answer"]).strip("$ ")))


def base_conversion(text: str, entry: Entry) -> float:
    """Digits, with or without the base behind them, which must then be the right one."""
    match = _BASE.fullmatch(_squeezed(text))
    if match is None or match[1] != _squeezed(str(entry["answer"])):
        return 0.0
    return float(match[2] is None or int(match[2]) == entry["metadata"].get("target_base"))


def calendar_arithmetic(text: str, entry: Entry) -> float:
    """A weekday, yes or no, or a number of days."""
    if _WEEKDAY_OR_WORD.fullmatch(str(entry["answer"])):
        return as_truth(text, entry)
    return as_number(text, entry)


def time_intervals(text: str, entry: Entry) -> float:
    """A time, days and a time, or a number of days."""
    if entry["metadata"]["task_type"] == "date":
        return float(_days(text) == _days(str(entry["answer"])))
    return float(_seconds(text) == _seconds(str(entry["answer"])))


def _days(text: str) -> int:
    if (match := _DAYS.fullmatch(text.strip())) is None:
        raise ValueError("not a number of days")
    return int(match[1])


def _seconds(text: str) -> Fraction:
    if (match := _CLOCK.fullmatch(plain_text(text))) is None:
        raise ValueError("not a time")
    days, hours, minutes, seconds, decimals = match.groups()
    whole = ((int(days or 0) * 24 + int(hours)) * 60 + int(minutes)) * 60 + int(seconds or 0)
    return whole + Fraction(int(decimals or 0), 10 ** len(decimals or ""))


def power_function(text: str, entry: Entry) -> float:
    """Right to three significant figures."""
    value, expected = counted(text), written_number(str(entry["answer"]))
    return float(_rounded(value, 3) == _rounded(expected, 3))


def _rounded(value: Fraction, figures: int) -> str:
    """Rounded half to even. Raises ValueError for a number beyond those that puzzles have."""
    try:
        return f"{float(value):.{figures - 1}e}"
    except OverflowError as error:
        raise ValueError("too large a number") from error


def number_format(text: str, entry: Entry) -> float:
    """The chosen number, within .01 as theirs."""
    return float(abs(counted(text) - Fraction(entry["metadata"]["solution"])) < Fraction(1, 100))


def knights_knaves(text: str, entry: Entry) -> float:
    """Everybody's role, in any order. Theirs pays .3 for one right role, and .65 for a guess of two."""
    return float(_roles(text) == _roles(str(entry["answer"])))


def _roles(text: str) -> dict[str, str]:
    """Role by name, both in small letters. Raises ValueError for other sentences, and for two roles of one person."""
    found: dict[str, str] = {}
    for part in re.split(r",? and |[,;.\n]", plain_text(text).casefold()):
        words = [word for word in _ROLES.sub(" ", part).split() if word not in ("and", "a", "an", "the", "-")]
        if not words:
            continue
        if len(words) == 3 and words[1] == "is":
            words.pop(1)
        if len(words) != 2 or words[0] in found:
            raise ValueError("not one role for each person")
        found[words[0]] = words[1]
    return found


def word_sorting(text: str, entry: Entry) -> float:
    """Theirs pays the share of words in their place, and .2 for all of them in any order."""
    return float(same_items(items(text), entry["metadata"]["sorted_words"], case=True))


def tsumego(text: str, entry: Entry) -> float:
    """A point of the board. Theirs pays for text around it, and .05 for any point."""
    return float("".join(_squeezed(text).split()) == _squeezed(str(entry["answer"])))


def words_in_order(text: str, entry: Entry) -> float:
    """A sentence; spaces before punctuation do not count."""
    given, expected = (re.sub(r" +([.,;:!?])", r"\1", _squeezed(one)) for one in (text, str(entry["answer"])))
    return float(given == expected)


def set_of_groups(text: str, entry: Entry) -> float:
    """Groups of words in any order."""
    given, expected = parse_json(text), entry["metadata"]["solution"]
    if not isinstance(given, list) or not all(isinstance(group, list) for group in given):
        return 0.0
    return float(sorted(sorted(map(str, group)) for group in given) == sorted(sorted(group) for group in expected))


def set_of_partitions(text: str, entry: Entry) -> float:
    """Partitions in any order. Theirs takes a text for the list of its letters."""
    given = parse_json(text)
    if not isinstance(given, list) or not all(isinstance(parts, list) for parts in given):
        return 0.0
    expected = {tuple(parts) for parts in entry["metadata"]["solution"]}
    return float({tuple(map(str, parts)) for parts in given} == expected)


def _table(scorer: Scorer, names: str) -> dict[str, Scorer]:
    return dict.fromkeys(names.split(), scorer)


EXACT: dict[str, Scorer] = {
    **_table(as_number, "aiw basic_arithmetic binary_alternation chain_sum circuit_logic count_bits count_primes "
             "decimal_chain_sum gcd gsm_symbolic largest_island lcm leg_counting letter_counting maze number_sequence products "
             "rectangle_count rotten_oranges self_reference simple_equations simple_geometry"),
    **_table(as_text, "acre ab caesar_cipher color_cube_rotation emoji_mystery family_relationships letter_jumble "
             "mahjong_puzzle needle_haystack string_manipulation zebra_puzzles"),
    **_table(as_text_with_case, "bf"),
    **_table(as_letters, "figlet_font string_insertion"),
    **_table(as_truth, "course_schedule game_of_life_halting isomorphic_strings ransom_note syllogism"),
    **_table(as_items, "arc_1d list_functions number_filtering number_sorting path_star spiral_matrix string_splitting "
             "string_synthesis"),
    **_table(as_items_with_case, "word_sequence_reversal"),
    **_table(as_grid, "binary_matrix manipulate_matrix rotate_matrix"),
    **_table(as_picture, "modulo_grid"),
    **_table(output_grid, "arc_agi rearc"),
    **_table(as_json, "codeio game_of_life"),
    **_table(solved_grid, "futoshiki mini_sudoku sudoku survo"),
    **_table(reduced_fraction, "dice fraction_simplification"),
    **_table(words_in_order, "sentence_reordering"),
    **_table(set_of_groups, "group_anagrams"),
    "base_conversion": base_conversion,
    "calendar_arithmetic": calendar_arithmetic,
    "knights_knaves": knights_knaves,
    "number_format": number_format,
    "palindrome_partitioning": set_of_partitions,
    "pool_matrix": pool_matrix,
    "power_function": power_function,
    "time_intervals": time_intervals,
    "tsumego": tsumego,
    "word_sorting": word_sorting,
}  # fmt: skip

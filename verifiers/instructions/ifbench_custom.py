"""IFBench's custom: instruction types (arXiv 2507.02833), each of which is one whole task of the benchmark.

The form is judged, and of the content what can be looked up here. Every rule is linear in the text.
"""

from __future__ import annotations

import csv
import datetime
import io
import itertools
import re

from ...common.json_object import JsonObject
from .ifbench_tables import AFRICA, CAPITALS
from .ifbench_words import plain_letters, unmarked_words
from .rule import InstructionRule
from .text import count_sentences, first_word, split_sentences

MULTIPLES = ["14", "21", "28", "35", "42", "49"]
BIRD = "bald eagle"
QUESTIONS, OPTIONS = 4, 5
LEAST_COUNTRIES = 52  # of 54, so that a disputed one and one forgotten do no harm
NAPOLEON = (datetime.date(1769, 8, 15), datetime.date(1821, 5, 5))
CITY = ["ID", "Country", "City", "Year", "Count"]
PRODUCT = ["ProductID", "Category", "Brand", "Price", "Stock"]
STUDENT = ["StudentID", "Subject", "Grade", "Semester", "Score"]
_QUESTION = re.compile(r"^[ \t*#]*Question\b[^\n]*", re.MULTILINE)
_OPTION = re.compile(r"[\s*(\-]*[A-Ea-e][.):]\**\s*\S")
_LABEL = re.compile(r"^[\s*#]*Question\s*\d*\s*[.:)]?\s*")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_QUOTED = re.compile(r'"([^"\n]*)"')
_SPECIAL = re.compile(r"[^\w\s.,]")
_MARKS = "\"'*_.,:;- \t"


def _multiples(text: str, k: JsonObject) -> bool:
    return re.findall(r"\d+", text) == MULTIPLES


def _multiple_choice(text: str, k: JsonObject) -> bool:
    """Four questions, each longer than the last, with five options each, and nothing before the first."""
    starts = [match.start() for match in _QUESTION.finditer(text)]
    if len(starts) != QUESTIONS or text[: starts[0]].strip():
        return False
    lengths = []
    for start, end in itertools.pairwise([*starts, len(text)]):
        lines = [line for line in text[start:end].splitlines() if line.strip()]
        first = next((i for i, line in enumerate(lines) if _OPTION.match(line)), len(lines))
        if sum(_OPTION.match(line) is not None for line in lines) != OPTIONS:
            return False
        lengths.append(len(_LABEL.sub("", " ".join(line.strip() for line in lines[:first]), count=1)))
    return all(a < b for a, b in itertools.pairwise(lengths))


def _african_countries(text: str, k: JsonObject) -> bool:
    """Lines from Zimbabwe on, each with a country of Africa, in reverse order."""
    lines = [plain_letters(line).strip(_MARKS + "0123456789)") for line in text.splitlines()]
    lines = list(itertools.dropwhile(lambda line: "zimbabwe" not in line, [line for line in lines if line]))
    known = all(set(re.findall(r"[a-z]+", line)) & set(AFRICA) for line in lines)
    return len(set(lines)) >= LEAST_COUNTRIES and known and lines == sorted(lines, reverse=True)


def _words_reversed(text: str, k: JsonObject) -> bool:
    return count_sentences(text) == 1 and BIRD in " ".join(reversed(unmarked_words(text)))


def _letters_reversed(text: str, k: JsonObject) -> bool:
    return BIRD[::-1] in text.casefold() and BIRD not in text.casefold()


def _alphabet_story(text: str, k: JsonObject) -> bool:
    letters = [plain_letters(first_word(sentence))[:1] for sentence in split_sentences(text)]
    return letters == [chr(ord("a") + i) for i in range(26)]


def _capitals(text: str, k: JsonObject) -> bool:
    found = [capital.strip(_MARKS + "\n") for capital in plain_letters(text).split(",")]
    return [capital for capital in found if capital not in ("kyiv", "kiev")] == [capital.lower() for capital in CAPITALS]


def _unfenced(text: str) -> str:
    match = re.fullmatch(r"```[a-zA-Z]*\n([\s\S]*?)\n?```", text)
    return match[1] if match else text


def _rows(text: str, delimiter: str, header: list[str], rows: int) -> list[list[str]] | None:
    """The rows behind the header, if they are so many and as wide as it."""
    try:
        table = [row for row in csv.reader(io.StringIO(_unfenced(text)), delimiter=delimiter, skipinitialspace=True) if row]
    except csv.Error:
        return None
    if len(table) != rows + 1 or [name.strip() for name in table[0]] != header:
        return None
    return table[1:] if all(len(row) == len(header) for row in table) else None


def _cities(text: str, k: JsonObject) -> bool:
    return _rows(text, ",", CITY, 7) is not None


def _products(text: str, k: JsonObject) -> bool:
    """One of the quoted fields behind the header holds a special character."""
    quoted = _QUOTED.findall(_unfenced(text).partition("\n")[2])
    return _rows(text, ",", PRODUCT, 14) is not None and any(map(_SPECIAL.search, quoted))


def _students(text: str, k: JsonObject) -> bool:
    """Every field of every row stands in double quotes; of the header too."""
    if _rows(text, "\t", STUDENT, 3) is None:
        return False
    fields = [field.strip() for line in _unfenced(text).splitlines() if line.strip() for field in line.split("\t")]
    quoted = [field for field in fields if len(field) > 1 and field[0] == field[-1] == '"']
    return len(quoted) == len(fields) or quoted == fields[len(STUDENT) :]


def _battles(text: str, k: JsonObject) -> bool:
    """Dates in Napoleon's life, two or more, and nothing else. Whether there was a battle cannot be told here."""
    found = [part.strip() for part in text.rstrip(".").split(",")]
    if len(set(found)) < 2 or not all(_DATE.fullmatch(part) for part in found):
        return False
    try:
        return all(NAPOLEON[0] <= datetime.date.fromisoformat(part) <= NAPOLEON[1] for part in found)
    except ValueError:
        return False


IFBENCH_CUSTOM_RULES: dict[str, InstructionRule] = {
    "custom:multiples": InstructionRule(_multiples),
    "custom:mcq_count_length": InstructionRule(_multiple_choice),
    "custom:reverse_newline": InstructionRule(_african_countries),
    "custom:word_reverse": InstructionRule(_words_reversed),
    "custom:character_reverse": InstructionRule(_letters_reversed),
    "custom:sentence_alphabet": InstructionRule(_alphabet_story),
    "custom:european_capitals_sort": InstructionRule(_capitals),
    "custom:csv_city": InstructionRule(_cities),
    "custom:csv_special_character": InstructionRule(_products),
    "custom:csv_quotes": InstructionRule(_students),
    "custom:date_format_list": InstructionRule(_battles),
}

"""Answers that solve nothing, for `bench/puzzle_constants.py`: fixed texts, mixtures of answers, pieces of the question."""

from __future__ import annotations

import json
import re
import string
from collections import Counter
from collections.abc import Iterator

MAX_MIXED = 12  # answers that are joined; more of them would be a list of everything
_WALKS = {
    "steps": "right down left up " * 100,
    "moves": "LLLLDDDDRRRRUUUU" * 50,
    "slides": " ".join(f"{car}{sign}1" for _ in range(25) for car in "BCDEFGHIJKLMA" for sign in "+-") + " A+4",
    "presses": " ".join("ABC" * 40),
    "turns": "R U R' U' " * 30,
}
_SHORT = (
    "?", "0", "1", "-1", "2", "3", "5", "10", "0.5", "0.3", "1/2", "nan", "inf", "1e999", "Yes", "No", "True", "False", "yes",
    "no", "None", "null", "[]", "{}", "()", "[[]]", "[0]", "[1]", "A", "B", "C", "D", "E", "on", "off", "undetermined",
    "infeasible", "Monday", "red", "the", "e", "x", "a", "Q", "_", "#", ".", "=", "*", "Pass", "0x0", "x+C", "True False",
    "True or False", "Yes No", "Yes, No", "A B C D", "0 1", "[{}]",
)  # fmt: skip
FIXED: dict[str, str] = {name: name for name in _SHORT} | {
    "digits": string.digits,
    "digits, apart": " ".join(string.digits),
    "digits, list": json.dumps(list(range(10))),
    "numbers to 1000": " ".join(map(str, range(1000))),
    "letters": string.ascii_lowercase,
    "letters, apart": " ".join(string.ascii_uppercase),
    "eeeeeeeeee": "e" * 10,
    "board of 0": "\n".join(["0 0 0 0"] * 4),
    "board of 1": "\n".join(["1 1 1 1"] * 4),
    "long: 0 0 0": "0 " * 10_000,
    "long: True False": "True False " * 2_000,
    "long: aaaa": "a" * 20_000,
    "long: [0, 0, 0]": json.dumps([0] * 5_000),
    **_WALKS,
}
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_QUOTED = re.compile(r"'([^'\n]{1,80})'|\"([^\"\n]{1,80})\"")
_LIST = re.compile(r"\[[^\[\]\n]*\]")
_EXAMPLE = re.compile(r"(?:example|e\.g\.|ex\.?[,:]|like)[^\n]{0,20}?[:,(]?\s*([^\n)\]]{1,80})", re.IGNORECASE)


def mixtures(golds: list[str]) -> dict[str, str]:
    """The most frequent stored answers, alone and joined in several ways."""
    frequent = [gold for gold, _ in Counter(golds).most_common(MAX_MIXED)]
    joins = {"space": " ", "comma": ", ", "or": " or ", "lines": "\n", "slash": "/", "nothing": ""}
    mixed = {f"all answers, {name}": sign.join(frequent) for name, sign in joins.items()} if len(frequent) > 1 else {}
    return {"most frequent answer": frequent[0]} | mixed | {"all answers, list": json.dumps(frequent)}


def pieces(question: str) -> dict[str, str]:
    """Texts that the question itself holds."""
    lines = [line for line in question.splitlines() if line.strip()]
    found = {"question": question, "last line": lines[-1], "last line but one": lines[max(0, len(lines) - 2)]}
    found |= {"behind the last colon": question.rpartition(":")[2].strip(), "first line": lines[0]}
    if numbers := _NUMBER.findall(question):
        ordered = sorted(numbers, key=float)
        found |= {"first number": numbers[0], "last number": numbers[-1], "largest": ordered[-1], "least": ordered[0]}
        found |= {"median number": ordered[len(ordered) // 2], "number of numbers": str(len(numbers))}
        found |= {"numbers, space": " ".join(numbers), "numbers, comma": ", ".join(numbers), "numbers, +": "+".join(numbers)}
    for name, pattern in (("quoted", _QUOTED), ("list", _LIST), ("example", _EXAMPLE)):
        matches = [
            next(filter(None, match.groups()), "") if match.groups() else match[0] for match in pattern.finditer(question)
        ]
        if matches:
            found |= {f"{name}, first": matches[0], f"{name}, last": matches[-1], f"{name}, all": ", ".join(matches)}
    return found | dict(_boards(lines)) | dict(_words(lines))


def _boards(lines: list[str]) -> Iterator[tuple[str, str]]:
    """The last block of lines with as many cells each: as it is, with its blanks filled, and as a list of lists."""
    block: list[list[str]] = []
    blocks: list[list[list[str]]] = []
    for line in [*lines, ""]:
        cells = line.replace("[", " ").replace("]", " ").replace(",", " ").split()
        if block and len(cells) != len(block[0]):
            if len(block) > 1 and len(block[0]) > 1:
                blocks.append(block)
            block = []
        if cells:
            block.append(cells)
    if not blocks:
        return
    board = max(blocks, key=len)
    yield "board", "\n".join(" ".join(row) for row in board)
    for fill in "01249":
        filled = [[fill if cell in "_." else cell for cell in row] for row in board]
        yield f"board, {fill} for blanks", "\n".join(" ".join(row) for row in filled)
        yield f"board of {fill}", "\n".join(" ".join([fill] * len(row)) for row in board)
        if all(cell.isdigit() for row in filled for cell in row):
            yield f"board, {fill} for blanks, JSON", json.dumps([[int(cell) for cell in row] for row in filled])
            yield f"board of {fill}, JSON", json.dumps([[int(fill)] * len(row) for row in board])


def _words(lines: list[str]) -> Iterator[tuple[str, str]]:
    """The words that the last lines end with, in the question's order; a template of the question with its first choices."""
    tail = lines[-1].rpartition(":")[2].strip() or lines[-1]
    yield "tail", tail
    yield "tail, comma", ", ".join(tail.replace(",", " ").split())
    yield "tail, joined", "".join(tail.replace(",", " ").split())
    if (quoted := re.search(r'like: "([^"]+)"', lines[-1])) is not None:
        yield "template, first choices", re.sub(r"/\w+", "", quoted[1])
        yield "template, second choices", re.sub(r"\w+/", "", quoted[1])

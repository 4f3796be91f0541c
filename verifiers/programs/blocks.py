"""The block of a completion that is the program.

    completion --after_thinking--> text --fenced blocks--> those in the language --the one that fits the task--> program

A block is fenced as Markdown has it: three or more backticks or tildes, closed by at least as many of the same. A block that is
never closed does not count. Of several, the last one that defines what the tests call, or that reads its input where the tests
give one; without such a block, the last one. Blocks tagged with the language come before those without a tag.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

TAGS = {
    "python": {"python", "python3", "py", "py3", "pypy", "pypy3"},
    "cpp": {"cpp", "c++", "cc", "cxx", "c"} | {f"{name}{year}" for name in ("cpp", "c++") for year in (11, 14, 17, 20, 23)},
}
# what stands behind backticks holds none, else it is code within a line
FENCE = re.compile(r"(`{3,})([^`]*)|(~{3,})(.*)")
MAIN = {
    "python": re.compile(r"\b(?:input|open)\s*\(|\bstdin\b|\bos\.read\b|\bfileinput\b"),
    "cpp": re.compile(r"\bmain\s*\("),
}


@dataclass(frozen=True, slots=True)
class Block:
    """One closed block in the wanted language or without a tag."""

    code: str
    tagged: bool


def blocks(text: str, language: str) -> Iterator[Block]:
    """The closed blocks in this language, in order. Another opening fence restarts a block."""
    opened, tag, indent = "", "", 0
    lines: list[str] = []
    for line in text.splitlines(keepends=True):
        word = line.strip()
        found = FENCE.fullmatch(word) if word[:3] in ("```", "~~~") else None
        fence, info = ((found[1], found[2]) if found[1] else (found[3], found[4])) if found else ("", "")
        if not fence or (opened and (fence[0] != opened[0] or len(fence) < len(opened))):
            # no fence, or one inside a longer fence, or one of the other kind
            if opened:
                lines.append(line)
        elif opened and not info:
            if tag in TAGS[language] or not tag:
                yield Block("".join(_without_indent(line, indent) for line in lines), bool(tag))
            opened = ""
        else:
            opened, tag, lines = fence, _tag(info), []
            indent = len(line) - len(line.lstrip(" "))


def _tag(info: str) -> str:
    """The language behind a fence: `python title="a.py"`, `{.python}`, `python:a.py` and `Python` say python."""
    return re.split(r"[\s:,{}]", info.lower().strip("{}. "), maxsplit=1)[0]


def _without_indent(line: str, width: int) -> str:
    """The line without as many spaces as stand before its fence, as in a list item."""
    return line[min(width, len(line) - len(line.lstrip(" "))) :]


def code_block(text: str, language: str, *, defines: str = "", reads: bool = False) -> str | None:
    """The program in a text, or None.

    defines: the name, or Class.name, that the tests call. reads: whether the tests give standard input.
    """
    found = list(blocks(text, language))
    fits = MAIN[language] if language == "cpp" or (reads and not defines) else _definition(defines)
    for wanted in (lambda block: block.tagged and fits.search(block.code), lambda block: fits.search(block.code)):
        best = next(filter(wanted, reversed(found)), None)
        if best is not None:
            return best.code
    best = next((block for block in reversed(found) if block.tagged), found[-1] if found else None)
    return best.code if best else None


def _definition(path: str) -> re.Pattern[str]:
    """Matches a block that defines the name."""
    if not path:
        return re.compile("")
    owner, _, name = path.rpartition(".")
    name = re.escape(owner.removesuffix("()") or name)
    return re.compile(rf"^[ \t]*(?:(?:async[ \t]+)?def|class)[ \t]+{name}\b|^{name}[ \t]*[:=]", re.MULTILINE)

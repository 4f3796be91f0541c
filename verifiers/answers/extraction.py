r"""Finding the answer of a completion: behind the thinking, in the last balanced \boxed{...} or between <answer> tags.

Everything here is linear in the text, because the text is the model's and may be hostile.
"""

from __future__ import annotations

import re

from ..api import Answer, Task

MAX_TEXT_CHARS = 1_000_000  # at the end of the text, where the answer stands
_BRACES = re.compile(r"\\(?:boxed|f(?:rame)?box)(?![a-zA-Z])\s*\{?|\\[\s\S]|[{}]")
# what a box without braces holds: a number, a letter alone, a fraction
_BARE = re.compile(
    r"[-+]?(?:\d{1,400}(?:,\d{3}){0,100}(?:\.\d{1,400})?|\.\d{1,400})|[A-Za-z](?![A-Za-z])"
    r"|[-+]?\\d?t?frac(?:\d\d|\{[^{}]{1,100}\}\{[^{}]{1,100}\})"
)
MAX_BOXES = 40
_NUMBER = re.compile(r"(?:(?<![\w)\]}])[-+])?(?:\d+(?:,\d{3})*(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?")


def after_thinking(task: Task) -> str:
    """The part of a completion that counts: behind the last </think>, up to the next <think>.

    Empty when the thinking never ended, also when the prompt itself opened it. At most the last million characters.
    """
    _, closed, rest = task.completion.rpartition("</think>")
    if not closed and task.thinking_open:
        return ""
    return rest.partition("<think>")[0][-MAX_TEXT_CHARS:]


def _boxes(text: str) -> list[tuple[int, int]]:
    r"""The spans inside all balanced \boxed{...}, in the order of their beginnings. Escaped braces do not count.

    A box without braces, \boxed 7 or \boxed\frac12, holds the number, letter or fraction behind it.
    """
    if "box" not in text:
        return []
    open_at: list[int] = []  # content starts of boxes, -1 for other braces
    found: list[tuple[int, int]] = []
    for match in _BRACES.finditer(text):
        token = match.group()
        if token == "}":
            start = open_at.pop() if open_at else -1
            if start >= 0:
                found.append((start, match.start()))
        elif token == "{":
            open_at.append(-1)
        elif token.endswith("{") and len(token) > 2:
            open_at.append(match.end())
        elif len(token) > 2 and (bare := _BARE.match(text, match.end())):
            found.append(bare.span())
    return sorted(found)


def last_boxed(text: str) -> str | None:
    r"""The content of the balanced \boxed{...} that begins last, or None."""
    found = _boxes(text)
    return text[found[-1][0] : found[-1][1]].strip() if found else None


def separate_boxes(text: str) -> list[str]:
    """The contents of all boxes, of a box in a box the inner one; none where there are more than 40."""
    found = _boxes(text)
    if not 0 < len(found) <= MAX_BOXES:
        return []
    inner = [one for one, behind in zip(found, [*found[1:], (len(text), 0)], strict=True) if behind[0] >= one[1]]
    return [text[start:end].strip() for start, end in inner]


def last_tagged(text: str, tag: str = "answer") -> str | None:
    """The content of the last complete <tag>...</tag>, or None. A stray closing tag behind it changes nothing."""
    end = text.rfind(f"</{tag}>")
    start = text.rfind(f"<{tag}>", 0, end) if end >= 0 else -1
    return text[start + len(tag) + 2 : text.find(f"</{tag}>", start)].strip() if start >= 0 else None


def last_number(text: str) -> str | None:
    """The last number in the text, or None."""
    found = _NUMBER.findall(text)
    return found[-1] if found else None


def stored_answer(answer: Answer) -> str:
    r"""The text of a stored answer {"answer": ...}, taken out of its own \boxed{} if it has one."""
    text = str(answer["answer"])
    return last_boxed(text) or text

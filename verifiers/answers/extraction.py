r"""Finding the answer of a completion: behind the thinking, in the last balanced \boxed{...} or between <answer> tags.

Everything here is linear in the text, because the text is the model's and may be hostile.
"""

from __future__ import annotations

import re

from ..api import Answer, Task

MAX_TEXT_CHARS = 1_000_000  # at the end of the text, where the answer stands
_BRACES = re.compile(r"\\(?:boxed|fbox)\s*\{|\\[\s\S]|[{}]")
_NUMBER = re.compile(r"(?:(?<![\w)\]}])[-+])?(?:\d+(?:,\d{3})*(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?")


def after_thinking(task: Task) -> str:
    """The part of a completion that counts: behind the last </think>, up to the next <think>.

    Empty when the thinking never ended, also when the prompt itself opened it. At most the last million characters.
    """
    _, closed, rest = task.completion.rpartition("</think>")
    if not closed and task.thinking_open:
        return ""
    return rest.partition("<think>")[0][-MAX_TEXT_CHARS:]


def last_boxed(text: str) -> str | None:
    r"""The content of the balanced \boxed{...} that begins last, or None. Escaped braces do not count."""
    open_at: list[int] = []  # content starts of boxes, -1 for other braces
    best: tuple[int, int] | None = None
    for match in _BRACES.finditer(text):
        token = match.group()
        if token == "}":
            start = open_at.pop() if open_at else -1
            if start >= 0 and (best is None or start > best[0]):
                best = (start, match.start())
        elif token == "{":
            open_at.append(-1)
        elif token.endswith("{") and len(token) > 2:
            open_at.append(match.end())
    return text[best[0] : best[1]].strip() if best else None


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

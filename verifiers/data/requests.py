r"""How a prompt asks for its answer, and making it ask for what its verifier reads.

    "... Put it on its own line after \"Answer:\"."  --with_request(BOX)--> "... put the final answer within \boxed{}."
    rendered prompt --requested_forms--> {Form.box}, of which `prolong data check` tries each

A request is a sentence that tells where the answer goes; the word "answer" in a question is none.
"""

from __future__ import annotations

import re
from enum import StrEnum

BOX = "\n\nLet's think step by step and put the final answer within \\boxed{}."
TAGS = "\n\nPut your final answer between <answer> and </answer> tags."
_BLOCK = " Put it in one block:\n```python\n# your code\n```"
STDIN = "\n\nWrite a Python program that reads from standard input and writes to standard output." + _BLOCK
FUNCTION = "\n\nWrite a Python function `{name}` that solves the problem." + _BLOCK
METHOD = "\n\nWrite a Python class `Solution` whose method `{name}` solves the problem." + _BLOCK
STARTER = "\n\nComplete this code, with the names that it has, in one block:\n```python\n{starter}\n```"
PROGRAM = "\n\nWrite Python code that solves the problem, with the names that it gives." + _BLOCK


class Form(StrEnum):
    """Where a completion puts its answer, in the words of a report."""

    box = "\\boxed{...}"
    hashes = "#### ..."
    line = "Answer: ..."
    tags = "<answer>...</answer>"
    fence = "```...```"


# What marks each form inside a sentence that asks; the sentence must also have a word of _ASKING, or stand for itself.
_MARKS: dict[Form, re.Pattern[str]] = {
    Form.box: re.compile(r"\\+(?:boxed|fbox)\b"),
    Form.hashes: re.compile(r"####"),
    Form.line: re.compile(r"\b(?:Final )?Answer\b[\"'`]?\s*[:：]", re.IGNORECASE),  # noqa: RUF001  a wide colon
    Form.tags: re.compile(r"</?answer>", re.IGNORECASE),
    Form.fence: re.compile(r"```|~~~|code (?:block|fence)s?|triple backticks|\bbackticks\b", re.IGNORECASE),
}
_ASKING = re.compile(
    r"\b(?:put|place|present|provide|give|write|output|enclose|wrap|return|report|state|express|box|end|conclude|finish|respond|"
    r"reply|format|within|inside|between|after|the form|using|use|must|should|remember|surround|delimit|mark|solve|answer in|"
    r"answer with|final answer|complete|submit|show)\b",
    re.IGNORECASE,
)
_ANSWER_WORDS = re.compile(
    r"\b(?:answers?|results?|solutions?|conclusion|values?|response|choice|option|letter|code|program|it)\b", re.I
)
_BOX_REQUEST = re.compile(
    r"(?:answers?|results?|solutions?|conclusion|option|choice|letter|it)\b[^\n]{0,160}\\+(?:boxed|fbox)|"
    r"\\+(?:boxed|fbox)\b[^\n]{0,60}\b(?:answer|result)|"
    r"\b(?:in|inside|within|into|using|with|use)(?: an?| the)? ?[`$\"'(]*\\+(?:boxed|fbox)",
    re.IGNORECASE,
)
# A sentence: up to the end of the line, or to a full stop with space behind it. Dots of numbers and of "e.g." do not end one.
_SENTENCE = re.compile(r"[^\n]*?(?:(?<!e\.g)(?<!i\.e)[.!?][\"'`)”]*(?=\s|$)|(?=\n)|$)")
_CUE = re.compile(r"(?:\n\s*|(?<=[.?!])\s+)(?:\*\*)?(?:Final )?(?:Answer|Solution|A)\s*[:：](?:\*\*)?\s*\Z", re.IGNORECASE)  # noqa: RUF001
_TAG = re.compile(r"</?\w+>")
_BLANK_LINES = re.compile(r"\n{3,}")
_EMPTY_BLOCK = re.compile(r"```\w*\s*(?:#[^\n]*)?\s*```")


def requested_forms(prompt: str) -> list[Form]:
    """The forms that a prompt asks for, each once, in the order of their last request."""
    last: dict[Form, int] = {}
    for start, sentence in _sentences(prompt):
        for form in _forms_of(sentence):
            last[form] = start
    return sorted(last, key=lambda form: last[form])


def with_request(question: str, request: str, wanted: Form) -> str:
    """The question with the request behind it, unless it asks for the wanted form already, and without requests for others."""
    kept = without_requests(question, keep=wanted)
    asks = wanted in requested_forms(kept)
    return kept if asks else kept + request


def without_requests(question: str, *, keep: Form) -> str:
    """The question without the sentences that ask for another form than `keep`, and without a cue ("Answer:") at its end."""
    parts, at = [], 0
    for start, sentence in _sentences(question):
        forms = _forms_of(sentence)
        if forms and keep not in forms and Form.fence not in forms and not _holds_question(sentence):
            parts.append(question[at:start].rstrip(" "))
            at = start + len(sentence)
    parts.append(question[at:])
    shortened = _BLANK_LINES.sub("\n\n", "".join(parts)) if len(parts) > 1 else question
    kept = _CUE.sub("", shortened.rstrip()).rstrip()
    return (kept.strip() if len(parts) > 1 else kept.strip("\n")) or question.strip()


def _holds_question(sentence: str) -> bool:
    """Whether a part of the question stands in front of the mark, or the line is one of a template of tags.

    Then the sentence stays, and the prompt asks for both: a box inside the other form obeys it.
    """
    before = min(match.start() for mark in _MARKS.values() if (match := mark.search(sentence)))
    return bool(re.search(r"[\d?=+^\\]", sentence[:before])) or not re.search(r"[A-Za-z]{2}", _TAG.sub("", sentence))


def _sentences(text: str) -> list[tuple[int, str]]:
    """(where it begins, the sentence) for every sentence that has a mark."""
    found = []
    for match in _SENTENCE.finditer(text):
        if match.group().strip() and any(mark.search(match.group()) for mark in _MARKS.values()):
            found.append((match.start(), match.group()))
    return found


def _forms_of(sentence: str) -> list[Form]:
    return [form for form, mark in _MARKS.items() if mark.search(sentence) and _asks(form, sentence)]


def _asks(form: Form, sentence: str) -> bool:
    """Whether a sentence with a mark is a request, and no part of the question."""
    if form is Form.box:
        return bool(_BOX_REQUEST.search(sentence))
    if form is Form.fence:
        return bool(_ASKING.search(sentence)) or sentence.strip().lower().startswith(("```python", "```cpp"))
    if form is Form.tags:
        return True
    if form is Form.hashes and sentence.lstrip().startswith("####"):
        return bool(re.match(r"\s*####\s*[<\[{(]", sentence))  # a placeholder: otherwise it is a heading
    if form is Form.line and (match := _MARKS[Form.line].search(sentence)) and not sentence[: match.start()].strip(" \"'`*"):
        return bool(re.match(r"\s*[$<\[{(]", sentence[match.end() :]))  # a line of an example, or a cue
    return bool(_ASKING.search(sentence)) and bool(_ANSWER_WORDS.search(sentence))

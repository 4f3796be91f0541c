"""A text in the making, for completions that obey given instructions: what has to be in it, and how it is put together.

Instructions of every kind write their needs into one Draft (shapes.py); `candidates` renders it in a few ways, of which the
caller takes the first that the rules accept.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from .text import count_sentences, words

# English words without commas, capitals and full stops, in an order that reads as English; "e" is in few of them
FILLER = (
    "the river is calm and the sky is clear",
    "this is a long and warm day for all of us",
    "we walk along it as it runs to a small town",
    "old ships sail by with food and wood and wool",
)
RARE_FILLER = ("so we go on by my up in it us am fjord nymph glyph zebra quack cat",)
MAX_WORDS = 20_000


@dataclass
class Draft:
    """What a text needs. Rules add to it; none takes away what another has added."""

    opening: list[str] = field(default_factory=list)  # blocks before everything else
    start: list[str] = field(default_factory=list)  # the first words of the body
    pieces: list[str] = field(default_factory=list)  # words and phrases that have to be somewhere in the body
    lines: list[str] = field(default_factory=list)  # bullets and the like, each a line of its own
    closing: list[str] = field(default_factory=list)  # blocks behind everything else
    heads: dict[int, str] = field(default_factory=dict)  # the first word of the so-manieth paragraph
    each_start: str = ""  # the first word of every sentence
    each_end: str = ""  # the last word of every sentence
    avoided: list[str] = field(default_factory=list)  # words that the filler must not hold
    avoided_letters: str = ""  # characters that the filler must not hold
    parts: int = 1
    divider: str = "\n\n"
    least_words: int = 0
    least_sentences: int = 1
    stop: str = "."  # what ends a sentence
    filler: tuple[str, ...] = FILLER  # the language of the text
    whole: str | None = None  # the entire text
    finish: list[tuple[int, Callable[[str], str]]] = field(default_factory=list)  # changes of the whole text, by their turn


def candidates(draft: Draft) -> Iterator[str]:
    """Texts that may have everything the draft asks for, the plainest first."""
    if draft.whole is not None:
        yield _finished(draft, draft.whole)
        return
    for more_sentences, fill in itertools.product((0, 1, 2, -1), (8, 0, 2)):
        sentences = max(1, draft.least_sentences + more_sentences)
        text = _rendered(draft, sentences, fill)
        lacking = draft.least_words - len(words(text))
        yield _rendered(draft, sentences, fill + lacking) if 0 < lacking <= MAX_WORDS else text


def _rendered(draft: Draft, sentences: int, fill: int) -> str:
    """The finished text with about so many sentences and words of filler."""
    outside = sum(count_sentences(block) for block in (*draft.opening, *draft.closing))
    count = max(1, sentences - outside, draft.parts)
    fill = max(fill, count - len(draft.pieces))
    body = [*draft.pieces, *itertools.islice(_filler_words(draft), fill)]
    bunches = [body[i * len(body) // count : (i + 1) * len(body) // count] for i in range(count)]
    paragraphs: list[list[str]] = [[] for _ in range(draft.parts)]
    for number, bunch in enumerate(bunches):
        part = number * draft.parts // count
        head = draft.heads.get(part + 1, "") if not paragraphs[part] else ""
        first = [*draft.start] if number == 0 else []
        sentence = " ".join(word for word in (*first, head, draft.each_start, *bunch, draft.each_end) if word)
        paragraphs[part].append(sentence[:1].upper() + sentence[1:] + draft.stop)
    blocks = draft.divider.join(map(" ".join, paragraphs))
    opening = "".join(block + "\n" for block in draft.opening)
    closing = "".join("\n" + block for block in (*draft.lines, *draft.closing))
    return _finished(draft, f"{opening}{blocks}{closing}")


def _filler_words(draft: Draft) -> Iterator[str]:
    """Words without the avoided ones, again and again."""
    for source in (" ".join(draft.filler).split(), " ".join(RARE_FILLER).split()):
        fit = [word for word in source if _fits(draft, word)]
        if fit and (len(fit) > 3 or len(source) <= 3):
            yield from itertools.cycle(fit)
    yield from itertools.repeat("1")


def _fits(draft: Draft, word: str) -> bool:
    folded = word.casefold()
    if any(letter in folded for letter in draft.avoided_letters.casefold()):
        return False
    return not any(avoided.strip().casefold() in folded for avoided in draft.avoided)


def _finished(draft: Draft, text: str) -> str:
    for _, change in sorted(draft.finish, key=lambda one: one[0]):
        text = change(text)
    return text.strip()

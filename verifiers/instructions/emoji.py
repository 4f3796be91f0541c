"""Emoji in a text, by the blocks of Unicode that hold them: no table of names is needed to see one."""

from __future__ import annotations

import re

from .text import AROUND, is_inner_stop

# pictographs, dingbats, arrows and stars that are drawn as emoji, and flags
_ONE = (
    "[\U0001f000-\U0001faff\u2600-\u27bf\u2b05-\u2b55\u231a-\u23ff\u25aa-\u25fe"
    "\u2934\u2935\u3030\u303d\u3297\u3299\u2139\u203c\u2049]"
)
# joiners, variation selectors, the frame of a keycap, skin tones and tags
_PART = "[\u200d\ufe0f\u20e3\U0001f3fb-\U0001f3ff\U000e0020-\U000e007f]"
EMOJI = re.compile(f"(?:{_ONE}|[0-9#*]\ufe0f?\u20e3)(?:{_ONE}|{_PART})*")
_STAND_IN = "\ue000"
_SENTENCE_END = re.compile(rf"([.!?\u2026]+)[\"'\u201d\u2019)*_]*(?:\s*{_STAND_IN})?|{_STAND_IN}|\n")


def ends_with_emoji(text: str) -> list[bool]:
    """Of each sentence, whether an emoji is at its end: in front of its full stop or behind it, or in place of it."""
    marked = EMOJI.sub(_STAND_IN, text)
    marked = re.sub(rf"(?:{_STAND_IN}\s*)+", lambda run: _STAND_IN + run.group()[len(run.group().rstrip()) :], marked)
    verdicts, start = [], 0
    ends = [match.end() for match in _SENTENCE_END.finditer(marked) if _ends(marked, match)]
    for end in [*ends, len(marked)]:
        sentence = marked[start:end]
        if re.search(r"\w", sentence):
            verdicts.append(sentence.rstrip(" \n\t.!?\u2026\"'\u201d\u2019)*_").endswith(_STAND_IN))
        elif verdicts and _STAND_IN in sentence:
            verdicts[-1] = True
        start = end
    return verdicts


def _ends(text: str, match: re.Match[str]) -> bool:
    """Whether a sentence ends here: not inside a number or a word, as in 3.5, nor behind "Dr." unless an emoji follows."""
    follows = text[match.end() : match.end() + AROUND]
    if match[1] == "." and not match[0].endswith(_STAND_IN) and is_inner_stop(text, match.start(), follows.lstrip()[:1]):
        return False
    return not follows[:1].isalnum()

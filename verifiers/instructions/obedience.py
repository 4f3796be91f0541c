"""Completions for stored instructions: one that follows them all, and one that does not.

Both are judged by the rules before they are returned, but for languages: those are a matter of the language model, which is not
loaded here, and of the samples, which the tests show to it.
"""

from __future__ import annotations

from ...common.json_object import JsonObject
from .draft import FILLER, Draft, candidates
from .ifbench_shapes import IFBENCH_SHAPES
from .languages import SAMPLES
from .rule import Follows, InstructionRule
from .rules import read_instruction
from .shapes import SHAPES
from .text import words

# Texts that break most instructions, in the order in which they are tried
DISOBEDIENT = ("No", "Well, no!", "so", "A b. C d? E, f!\n\n***\n\nG \u00e9", "NO, IT IS NOT.", "1")
KNOWN_SHAPES = SHAPES | IFBENCH_SHAPES
OWN_PER_OTHER = 4  # words of the asked language for every word that other instructions bring, so that it is recognised
NATURAL = {" ".join(FILLER), *(sample.lower() for sample in SAMPLES.values())}
CASES = {"change_case:english_capital": str.isupper, "change_case:english_lowercase": str.islower}


def chosen_follows(rule: InstructionRule, answer: JsonObject) -> Follows:
    """The strict or the lenient reading of a rule, as the answer says."""
    return rule.follows if answer.get("strict", True) or rule.lenient is None else rule.lenient


def obeying_text(answer: JsonObject) -> str | None:
    """A text that follows all instructions of a checked answer, or None where none is known."""
    read = [read_instruction(one) for one in answer["instructions"]]
    if any(name not in KNOWN_SHAPES for name, *_ in read):
        return None
    draft = Draft()
    # a change of the whole text comes last, when everything it has to hold is known
    for name, _, kwargs in sorted(read, key=lambda one: one[1].needs_language):
        KNOWN_SHAPES[name](draft, kwargs)
    languages = {str(kwargs.get("language", "en")) for _, rule, kwargs in read if rule.needs_language}
    if languages and not (draft.whole is None and len(languages) == 1 and " ".join(draft.filler).lower() in NATURAL):
        return None
    if languages:
        others = words(" ".join((*draft.opening, *draft.pieces, *draft.lines, *draft.closing, *draft.heads.values())))
        draft.least_words = max(draft.least_words, OWN_PER_OTHER * len(others))
    judged = [one for one in read if not one[1].needs_language]
    cases = {name for name, *_ in read} & set(CASES)
    for text in candidates(draft):
        if text and all(CASES[name](text) for name in cases) and not any(_misses(one, answer, text) for one in judged):
            return text
    return None


def disobeying_text(answer: JsonObject) -> str | None:
    """A text that follows none of the instructions of a checked answer, or few; None where every known one follows all."""
    read = [read_instruction(one) for one in answer["instructions"]]
    forbidden = [word for *_, k in read for word in k.get("forbidden_words", [])]
    repeated = [str(k.get("keyword", "")) for *_, k in read for _ in range(int(k.get("frequency", 1)) + 1)]
    letters = [str(k["letter"]) * (k.get("let_frequency", 0) + 1) for *_, k in read if "letter" in k]
    known = [*DISOBEDIENT, *letters, SAMPLES["en"], SAMPLES["ru"], " ".join(forbidden), " ".join(repeated), "word " * 2000]
    missed = {text.strip(): sum(_misses(one, answer, text.strip()) for one in read) for text in known if text.strip()}
    worst = max(missed, key=lambda text: missed[text])
    return worst if missed[worst] else None


def _misses(read: tuple[str, InstructionRule, JsonObject], answer: JsonObject, text: str) -> bool:
    """Whether a text certainly does not follow an instruction; of those that need the language model, only what is plain."""
    name, rule, kwargs = read
    if not rule.needs_language:
        return not chosen_follows(rule, answer)(text, kwargs)
    other = SAMPLES["en" if kwargs.get("language", "en") == "ru" else "ru"]
    return text == other or (name in CASES and not CASES[name](text))

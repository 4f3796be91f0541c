"""Whether two phrases say the same: yes and True, `It increases` and `increases`, `red, blue` and `blue, red`.

    text --bare_words--> small letters, no articles, singular --forms--> spellings of the same thing --> compared word by word

Words are added or left out only where they cannot change the meaning: a phrase with a word that the stored one lacks is wrong.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

from .inflection import singular
from .word_numbers import ORDINALS, word_number
from .wordings import GENES

MAX_PHRASE_CHARS = 300
TRUE = frozenset({"yes", "true", "correct", "right", "affirmative"})
FALSE = frozenset({"no", "false", "incorrect", "wrong", "not true", "not correct", "untrue"})
_OPPOSED = re.compile(
    r"\b(?:yes|no|not|true|false|correct|incorrect|wrong|untrue|or|neither|either|unclear|unknown|but|however)\b"
)
# yes, because heat flows
_BOOLEAN_FIRST = re.compile(
    r"(yes|no|true|false|correct|incorrect)\s*(?:[,.;:!-]|\bbecause\b|\bsince\b|\bas\b|\()", re.IGNORECASE
)
_SUBJECT = (
    r"(?:it|they|this|that|these|those|he|she|we|there|you|(?:its|their|both|each|all|such)(?: \w+){1,3}|the(?: \w+){1,4})"
)
_COPULA = r"(?:is|are|was|were|becomes?|(?:will|would|must|should|does|do|has|have)(?: be| been| become)?)"
_NAMING = r"(?: (?:called|known as|named|termed|referred to as|simply|also|equal to))?"
_SENTENCE = re.compile(rf"(?:because |so |thus |hence |therefore )?(?:{_SUBJECT} {_COPULA}{_NAMING}|{_SUBJECT})(?: an?| the)? ")
_UNSURE = re.compile(
    r"\b(?:not?|never|nor|neither|none|nothing|cannot|cant|dont|doe?snt|didnt|isnt|arent|wasnt|wont|wouldnt|hasnt|without|unlikely|non|except|but|or|either|maybe|may|might|possibly|"
    r"perhaps|probably|could|other|opposite|than|rather|instead|hardly|false|wrong|incorrect|lacks?|if|when|while|as|anti\w*)\b"
)
_VERBS = re.compile(
    r"(?:\w+ly )?(?:increase|decrease|double|triple|quadruple|halve|rise|fall|drop|grow|shrink|change|remain|stay|vanish|"
    r"expand|contract|accelerate|decelerate|melt|freeze|boil|evaporate|condense|sink|float|oxidize|reduce)\b"
)
_TAIL_OF_LAW = re.compile(
    r"(?<=\blaw)(?: of)? (?:(?:planetary )?motion|refraction|elasticity|effusion|(?:electromagnetic )?induction)\Z"
)
_HEAD_OF_LAW = re.compile(
    r"(?:law|principle|process|phenomenon|concept|method|name|theory) of (?=\w{4,} (?:of )?\w{4,}|\w{9,}\Z)"
)
_NAME_OF_LAW = re.compile(r"\A(?:mendel|newton|einstein|kepler) (?=law of (?:segregation|independent|universal|gravitation))")
_GLOSS = re.compile(
    r"\A([^()]{1,100}?) ?\((?:or |i\.?e\.?,? |also (?:called|known as) |aka |= ?)?([^()]{1,100})\)\Z", re.IGNORECASE
)
_REASON = re.compile(r",? (?:because|since|due to|as a result of) ")
_ORDINAL = re.compile(r"\d{1,3}(?:st|nd|rd|th)")
_RAYS = re.compile(r"\bx[- ]?ray", re.IGNORECASE)
_TOWARD = re.compile(r"\A(?:(?:to|toward) (?=\w+\Z)|(?:along|on) (?=[xyz] axis\Z))")  # to the left, along the x-axis
_BOND = re.compile(r"\b(covalent|ionic|metallic|dative) bond\Z")  # no hydrogen bonds: hydrogen alone is something else
# a hyphen that may as well not be there: non-spontaneous, counter-clockwise
_PREFIX = re.compile(
    r"\b(non|anti|counter|co|re|pre|sub|multi|semi|inter|intra|micro|photo)[-\u2010\u2011\u2013](?=[a-z]{3})", re.IGNORECASE
)
_ACCENTS = re.compile("[\u0300-\u036f]")
_SEPARATORS = re.compile(r"\s*(?:,|;)\s*(?:and |& )?|\s+and\s+|\s+&\s+")
_WORD = re.compile(r"[^\W_]+|[+-](?=\d)")
_SAME = {
    "no change": "unchanged", "not change": "unchanged", "does not change": "unchanged", "doe not change": "unchanged",
    "remain constant": "unchanged", "stay constant": "unchanged", "remain same": "unchanged", "stay same": "unchanged",
    "constant": "unchanged", "remain unchanged": "unchanged", "stay unchanged": "unchanged", "same": "unchanged",
    "go up": "increase", "go down": "decrease", "none of above": "none of these",
    "adenosine triphosphate": "atp", "adenosine diphosphate": "adp", "deoxyribonucleic acid": "dna", "ribonucleic acid": "rna",
    "citric acid cycle": "kreb cycle", "tricarboxylic acid cycle": "kreb cycle", "tca cycle": "kreb cycle",
    "anticlockwize": "counterclockwize", "infinite": "infinity", "carbon 4 oxide": "carbon dioxide",
}  # fmt: skip
_DIRECTIONS = {f"{way}ward": way for way in ("up", "down", "left", "right", "north", "south", "east", "west")}
_GENERIC_TAIL = re.compile(r"(?<=\w{3}) (?:molecule|gas|metal)\Z")


def same_phrase(reference: str, answer: str) -> bool:
    """Whether an answer of words is the stored one. Both are plain texts, without LaTeX."""
    if max(len(reference), len(answer)) > MAX_PHRASE_CHARS:
        return _flat(reference) == _flat(answer)
    wanted = truth(reference)
    if wanted is not None and (found := truth(answer, explained=True)) is not None:
        return wanted == found
    return any(_same_one(one, other) for one in alternatives(reference) for other in abbreviations(answer)) or _same_list(
        reference, answer
    )


def truth(text: str, *, explained: bool = False) -> bool | None:
    """The value of yes, no, True, `The statement is false`; None for other texts. explained: `No, because ...` is no, too."""
    flat = re.sub(r"[^\w\s]", "", text).lower().strip()
    if (match := _SENTENCE.match(flat)) and not _UNSURE.search(match[0]):
        flat = flat[match.end() :]
    if flat in TRUE or flat in FALSE:
        return flat in TRUE
    first = _BOOLEAN_FIRST.match(text.strip()) if explained else None
    if first is None:
        return None
    word, rest = first[1].lower(), text.strip()[first.end() :].lower()
    opposed = set(_OPPOSED.findall(rest)) - {word}
    # "No, it is not conserved" goes on with a not, "Yes, or no" with a hedge
    return word in TRUE if not opposed - ({"not"} if word in FALSE else set()) else None


def alternatives(reference: str) -> list[str]:
    """The spellings that one stored phrase gives: `ATP (adenosine triphosphate)` is either, and the whole."""
    match = _GLOSS.match(reference.strip())
    return [reference, match[1], match[2]] if match else [reference]


def abbreviations(answer: str) -> list[str]:
    """The same for an answer, where only an abbreviation beside its meaning is no hedge; also the answer without its reason."""
    match = _GLOSS.match(answer.strip())
    if not match:
        return [answer, claim] if (claim := _REASON.split(answer, maxsplit=1)[0]) != answer else [answer]
    long, short = sorted((match[1].strip(), match[2].strip()), key=len, reverse=True)
    letters = iter(long.lower())
    is_short = 1 < len(short) <= 8 and short.isupper() and long.lower()[:1] == short[0].lower()
    return [answer, long, short] if is_short and all(letter in letters for letter in short.lower()) else [answer]


def _same_one(reference: str, answer: str) -> bool:
    expected, found = forms(reference), forms(answer)
    # at most one side is cut: "the volume increases" is not "the pressure increases"
    return bool(expected & found or expected & statements(answer) or found & statements(reference))


@lru_cache(maxsize=1024)
def statements(text: str) -> frozenset[str]:
    """What a short sentence says of its subject, in all forms: that of `It is called osmosis`, of `The pressure increases`."""
    flat = " ".join(bare_words(text, keep_articles=True))
    match = _SENTENCE.match(flat)
    if not match:
        return frozenset()
    rests = [] if _UNSURE.search(re.sub(r"(?:known|referred to) as", "", match[0])) else [flat[match.end() :]]
    words = flat.split()
    if words[0] in ("the", "its", "their"):
        # a verb behind the subject, and none within it
        ends = [" ".join(words[at:]) for at in range(2, min(len(words), 6))]
        verb = next((end for end in ends if _VERBS.match(end)), None)
        rests = [rest for rest in rests if not _VERBS.search(flat.removesuffix(rest))]
        if verb and not _UNSURE.search(flat.removesuffix(verb)):
            rests.append(verb)
    return frozenset(form for rest in rests for form in forms(rest))


@lru_cache(maxsize=1024)  # the rollouts of a group share their stored answer
def forms(text: str) -> frozenset[str]:
    """Spellings of a phrase that mean the same; two phrases with a common one are equal."""
    flat = " ".join(bare_words(text))
    flat = _SAME.get(flat, flat)
    flat = _TOWARD.sub("", _BOND.sub(r"\1", _GENERIC_TAIL.sub("", flat)))
    flat = _NAME_OF_LAW.sub("", flat)
    short = _TAIL_OF_LAW.sub("", flat)
    found = {flat, short, _HEAD_OF_LAW.sub("", flat)}
    for one in tuple(found):
        # speed of light, light speed: in this order, so that change of speed is not speed of change
        if one.count(" of ") == 1 and len(one.split()) <= 5:
            head, _, tail = one.partition(" of ")
            found.add(f"{tail} {head}")
        if one.endswith(" law") and len(one.split()) > 2:
            found.add(one.removesuffix(" law"))
    return frozenset(found - {""})


def bare_words(text: str, *, keep_articles: bool = False) -> list[str]:
    """Small letters, no punctuation, singular, numbers as digits. Letters that stand alone keep their case: vitamin A."""
    text = _ACCENTS.sub("", unicodedata.normalize("NFD", _RAYS.sub("xray", text)))
    text = _PREFIX.sub(r"\1", text)
    text = re.sub(r"(?<=[A-Za-z])['’]s?\b", "", text)  # noqa: RUF001
    text = re.sub(r"(?<=[A-Za-z]{2})[-–](?=[A-Za-z]{2})", " ", text).strip()  # noqa: RUF001
    words = [word if len(word) == 1 or GENES.fullmatch(word) else word.lower() for word in _WORD.findall(text)]
    articles = set() if keep_articles else {"the", "an", "a"}
    words = [word for at, word in enumerate(words) if word not in articles and not (word == "A" and at == 0 and len(words) > 1)]
    return [word if len(word) == 1 or GENES.fullmatch(word) else _number(singular(word)) for word in words]


def _number(word: str) -> str:
    if word in ORDINALS or _ORDINAL.fullmatch(word):
        return str(ORDINALS.get(word) or re.sub(r"\D", "", word)) + "th"
    value = word_number(word)
    return str(value) if value is not None and value.denominator == 1 else _DIRECTIONS.get(word, word)


def _flat(text: str) -> str:
    return " ".join(bare_words(text))


def _same_list(reference: str, answer: str) -> bool:
    """Whether two lists of words have the same members, in any order."""
    expected, found = ([item for item in _SEPARATORS.split(text.strip(" .{}()[]\\")) if item] for text in (reference, answer))
    if not 1 < len(expected) == len(found):
        return False
    left = [forms(item) for item in found]
    for item in expected:
        at = next((at for at, other in enumerate(left) if other & forms(item)), None)
        if at is None:
            return False
        left.pop(at)
    return True

"""The shape of one instruction rule, and how its kwargs are read.

Published files hold the same kwargs as numbers, as floats (parquet), as texts, with nulls for the kwargs of other types, and
whole kwargs as a text of JSON or Python. They are read here once; the rules see one form.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from ...common.errors import DataError
from ...common.json_object import JsonObject
from ..answers.literals import parsed_literal

MAX_COUNT = 10**6
RELATIONS = ("less than", "at least", "at most", "around", "exactly")
Follows = Callable[[str, JsonObject], bool]  # of (text, kwargs)


@dataclass(frozen=True)
class Kwarg:
    """One kwarg of an instruction type."""

    read: Callable[[object], object]  # the value as the rules use it; None where it is not one
    expected: str
    optional: bool = False


@dataclass(frozen=True)
class InstructionRule:
    """One instruction type. The text is stripped and never empty."""

    follows: Follows
    kwargs: dict[str, Kwarg] = field(default_factory=dict)
    # the same as its data set's own checker has it, for answers with "strict": false; None where both are one
    lenient: Follows | None = None
    # the reason why no text can follow these kwargs, or ""
    impossible: Callable[[JsonObject], str] = lambda kwargs: ""
    # whether the rule needs the language model
    needs_language: bool = False
    # whether the rule gets the text with the indent of its first line
    keeps_indent: bool = False


def _count(value: object) -> int | None:
    """A whole number from 0, also as 3.0, "3" or "3.0"."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= MAX_COUNT or value != int(value):
        return None
    return int(value)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value.strip() else None


def _texts(value: object) -> list[str] | None:
    """A list of texts, also as a text of JSON or Python."""
    if isinstance(value, str) and value.strip().startswith("["):
        value = parsed_literal(value)
    if not isinstance(value, list) or not value or not all(_text(one) for one in value):
        return None
    return [str(one) for one in value]


def _relation(value: object) -> str | None:
    folded = value.strip().lower() if isinstance(value, str) else ""
    return folded if folded in RELATIONS else None


def _letter(value: object) -> str | None:
    return value.strip() if isinstance(value, str) and len(value.strip()) == 1 else None


COUNT = Kwarg(_count, "a whole number")
TEXT = Kwarg(_text, "a text")
TEXTS = Kwarg(_texts, "a list of texts")
RELATION = Kwarg(_relation, "one of " + ", ".join(map(repr, RELATIONS)))
LETTER = Kwarg(_letter, "one character")


def present_kwargs(kwargs: object) -> JsonObject | None:
    """The kwargs of one instruction without those that are null, as published files write those of other types.

    None for kwargs that are not an object, nor the text of one.
    """
    if isinstance(kwargs, str) and kwargs.strip() not in ("", "null", "None"):
        kwargs = parsed_literal(kwargs)
    elif isinstance(kwargs, str) or kwargs is None:
        return {}
    return {key: value for key, value in kwargs.items() if value is not None} if isinstance(kwargs, dict) else None


def read_kwargs(name: str, rule: InstructionRule, kwargs: object) -> JsonObject:
    """The kwargs as the rule uses them. Raises DataError for missing, unknown and wrong ones."""
    where, present = f"verifier instructions: {name}", present_kwargs(kwargs)
    wanted = {key for key, kwarg in rule.kwargs.items() if not kwarg.optional}
    if present is None or not wanted <= set(present) <= set(rule.kwargs):
        raise DataError(f"{where} got kwargs {kwargs!r:.200}; expected exactly {', '.join(rule.kwargs) or 'none'}")
    found: JsonObject = {}
    for key, value in present.items():
        kwarg = rule.kwargs[key]
        found[key] = kwarg.read(value)
        if found[key] is None:
            raise DataError(f"{where}: {key} = {value!r:.200}: expected {kwarg.expected}")
    return found


def compare(count: int, relation: str, limit: int, slack: int | None = None) -> bool:
    """Whether a count stands in a relation to a limit. "around" allows a tenth of the limit, at least 1, or `slack`."""
    if relation == "around":
        return abs(count - limit) <= (max(1, round(limit / 10)) if slack is None else slack)
    return {"less than": count < limit, "at least": count >= limit, "at most": count <= limit, "exactly": count == limit}[
        relation
    ]


def different(*keys: str) -> Callable[[JsonObject], str]:
    """`impossible` of a rule that wants one word so often and another one so often."""
    return lambda k: "" if len({k[key].strip().casefold() for key in keys}) == len(keys) else "two of its words are the same"


def never_less(count: str, relation: str, least: int, what: str) -> Callable[[JsonObject], str]:
    """`impossible` of a rule that asks for fewer than every text has."""

    def reason(k: JsonObject) -> str:
        too_few = (k[relation] == "less than" and k[count] <= least) or (
            k[relation] in ("at most", "exactly") and k[count] < least
        )
        return f"every text has {what}" if too_few else ""

    return reason

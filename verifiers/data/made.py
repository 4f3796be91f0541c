"""What a conversion makes of one record, and what a shape is: the columns that tell it, and the function that converts it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ...common.json_object import JsonObject
from .fields import LeftOut

Fits = Callable[[JsonObject], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A prompt record without its uid.

    golds: completions of which one must earn 1, where the record brings some (reference programs). notes: what was left out of
    the record on the way, in words that can be counted.
    """

    prompt: str
    domain: str
    task: str
    verifier: str
    answer: JsonObject
    golds: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def record(self, uid: str) -> JsonObject:
        """The line of the prompt file."""
        line: JsonObject = {"uid": uid, "prompt": self.prompt, "domain": self.domain, "task": self.task}
        line |= {"verifier": self.verifier, "answer": self.answer}
        return line | ({"gold": self.golds[0]} if self.golds else {})


class OpenAnswer(LeftOut):
    """A record whose answer no rule can compare. `made` is its prompt for the verifier `judge`, a model."""

    def __init__(self, reason: str, made: Made) -> None:
        super().__init__(reason, "the verifier judge, a model, can compare it (--judge)")
        self.made = made


@dataclass(frozen=True, slots=True)
class Shape:
    """One form in which records are published. `convert` raises LeftOut with the reason.

    family: the name of --format that prefers it. fits: whether the columns show this shape and no other. takes: the same where
    the user named the family, so that fewer columns are enough.
    """

    name: str
    family: str
    convert: Callable[[JsonObject], Made]
    fits: Fits
    takes: Fits | None = None


def has(*names: str) -> Fits:
    """Recognises a record by columns that are all there; "a|b" is one of both."""

    def fits(record: JsonObject) -> bool:
        return all(any(one in record for one in name.split("|")) for name in names)

    return fits

"""Values on their way between a program and the code that tests it: JSON with tags, which keeps Python's types apart.

    program --encoded--> JSON --decoded--> test code        and back, for arguments

None, booleans, integers, floats, texts and lists are themselves. What JSON lacks is an object with one key, its tag. Instances
of classes that both sides know by name travel as their attributes, so that nothing but plain data arrives. All else stays where
it is, and the other side gets a handle. Standard library only, because this runs inside the sandbox.
"""

from __future__ import annotations

import collections
import decimal
import fractions
import math
from collections.abc import Callable, Mapping
from typing import Any

Value = Any  # of a program or its tests: whatever Python has

LARGE_BITS = 10_000
SEQUENCES: dict[str, type] = {"tuple": tuple, "set": set, "frozenset": frozenset, "deque": collections.deque}
TYPES = {kind.__name__: kind for kind in (int, float, str, bool, list, tuple, dict, set, bytes, complex, type(None))}


class NotPlain(Exception):
    """A value that cannot travel."""


class Encoder:
    """Encodes values.

    classes: names of classes whose instances travel as their attributes. handle: gives what stands for any other value, or
    raises NotPlain.
    """

    def __init__(self, classes: Mapping[str, type], handle: Callable[[Value], Value]) -> None:
        self._classes, self._handle = classes, handle
        self._objects: list[Value] = []
        self._numbers: dict[int, int] = {}
        self._kept: list[Value] = []

    def message(self, value: Value) -> dict[str, Value]:
        """The value with the objects in it. Raises NotPlain."""
        encoded = self._encoded(value)
        while self._kept:
            number, one = self._kept.pop()
            self._objects[number][1] = {str(name): self._encoded(attribute) for name, attribute in vars(one).items()}
        return {"value": encoded, "objects": self._objects}

    def _encoded(self, value: Value) -> Value:
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, int):
            number = int.__int__(value)
            # decimal digits of larger ones take long, and the parent refuses them
            return number if number.bit_length() < LARGE_BITS else {"int": hex(number)}
        if isinstance(value, str):
            return str.__str__(value)
        if isinstance(value, float):
            number = float.__float__(value)
            return number if math.isfinite(number) else {"float": repr(number)}
        if isinstance(value, list):
            return [self._encoded(one) for one in list.__iter__(value)]
        if isinstance(value, dict):
            return {"dict": [[self._encoded(key), self._encoded(one)] for key, one in dict.items(value)]}
        for tag, kind in SEQUENCES.items():
            if isinstance(value, kind):
                return {tag: [self._encoded(one) for one in value]}
        return self._other(value)

    def _other(self, value: Value) -> Value:
        if isinstance(value, bytes | bytearray):
            return {"bytes": bytes(value).hex()}
        if isinstance(value, complex):
            return {"complex": [value.real, value.imag]}
        if isinstance(value, decimal.Decimal):
            return {"Decimal": str(value)}
        if isinstance(value, fractions.Fraction):
            return {"Fraction": [value.numerator, value.denominator]}
        if isinstance(value, range):
            return {"range": [value.start, value.stop, value.step]}
        if isinstance(value, type) and TYPES.get(value.__name__) is value:
            return {"type": value.__name__}
        if type(value).__module__.partition(".")[0] == "numpy" and hasattr(value, "tolist"):
            return self._encoded(value.tolist())
        if type(value).__name__ in self._classes and hasattr(value, "__dict__"):
            if id(value) not in self._numbers:
                self._numbers[id(value)] = len(self._objects)
                self._kept.append((len(self._objects), value))
                self._objects.append([type(value).__name__, {}])
            return {"object": self._numbers[id(value)]}
        return self._handle(value)


def decoded(message: dict[str, Value], classes: Mapping[str, type], handle: Callable[[Value], Value]) -> Value:
    """The value of a message. handle: makes what a handle stands for.

    Raises NotPlain for a message that no Encoder made.
    """
    try:
        made = [object.__new__(classes[name]) for name, _ in message["objects"]]
        for one, (_, attributes) in zip(made, message["objects"], strict=True):
            vars(one).update({name: _decoded(value, made, handle) for name, value in attributes.items()})
        return _decoded(message["value"], made, handle)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, ArithmeticError) as error:
        raise NotPlain(f"{type(error).__name__}: {error}") from error


def _decoded(value: Value, made: list[Value], handle: Callable[[Value], Value]) -> Value:
    if isinstance(value, list):
        return [_decoded(one, made, handle) for one in value]
    if not isinstance(value, dict):
        return value
    ((tag, content),) = value.items()
    if tag in SEQUENCES:
        return SEQUENCES[tag]([_decoded(one, made, handle) for one in content])
    if tag == "dict":
        return {_decoded(key, made, handle): _decoded(one, made, handle) for key, one in content}
    if tag == "object":
        return made[content]
    if tag == "handle":
        return handle(content)
    return _PLAIN[tag](content)


_PLAIN: dict[str, Callable[[Value], Value]] = {
    "float": float,
    "int": lambda digits: int(digits, 16),
    "bytes": bytes.fromhex,
    "complex": lambda parts: complex(*parts),
    "Decimal": decimal.Decimal,
    "Fraction": lambda parts: fractions.Fraction(*parts),
    "range": lambda parts: range(*parts),
    "type": lambda name: TYPES[name],
}

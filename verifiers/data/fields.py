"""Reading the columns of foreign records: texts, answers, JSON inside texts, chat messages. Each says what it found instead.

A record that cannot be used raises LeftOut, whose `reason` is the same for every record that is left out for it, so that a
report can count by reason.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable

from ...common.errors import DataError
from ...common.json_object import JsonObject
from ..answers.literals import python_literal

MAX_NAME_CHARS = 80  # of a set or a subject
MAX_DEPTH = 100  # of lists and objects in each other


class LeftOut(DataError):
    """A record that cannot become a prompt: a reason that can be counted, and what was found in this record."""

    def __init__(self, reason: str, found: str = "") -> None:
        super().__init__(f"{reason}: {found}" if found else reason)
        self.reason = reason


def shown(value: object) -> str:
    """A short form of any value, for messages."""
    try:
        return f"{value!r:.120}"
    except (RecursionError, ValueError):
        return f"a {type(value).__name__} that cannot be printed"


def column(record: JsonObject, *names: str) -> object:
    """The first of these columns that holds something; None if none does."""
    return next((record[name] for name in names if not is_empty(record.get(name))), None)


def is_empty(value: object) -> bool:
    """Whether a value is null, NaN (an empty cell of a table), or a text, list or object without content."""
    if isinstance(value, float):
        return math.isnan(value)
    return value is None or (isinstance(value, str | list | dict) and not (value.strip() if isinstance(value, str) else value))


def text_of(record: JsonObject, *names: str) -> str:
    """The text of the first of these columns that is filled. Raises: LeftOut."""
    value = column(record, *names)
    if not isinstance(value, str):
        raise LeftOut(f"no text in the column {' or '.join(names)}", f"{names[0]} = {shown(value)}: expected a text")
    return value


def scalar(value: object, name: str) -> str | int | float:
    """An answer that is a text or a finite number. Raises: LeftOut."""
    if is_empty(value):
        raise LeftOut("no answer", f"{name} = {shown(value)}")
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise LeftOut("the answer is neither a text nor a number", f"{name} = {shown(value)}: expected a text or a number")
    if isinstance(value, float) and not math.isfinite(value):
        raise LeftOut("the answer is not a finite number", f"{name} = {shown(value)}")
    return value


def parsed_value(value: object, name: str) -> object:
    """The value of a text that holds JSON or, as some sets have it, a Python literal; other values as they are.

    Raises: LeftOut for a text that is neither.
    """
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        pass
    literal = python_literal(value)
    if literal is None:
        raise LeftOut(f"the text in {name} is not JSON", f"{name} = {shown(value)} is not JSON")
    return plain_value(literal)


def maybe_parsed(value: object) -> object:
    """As `parsed_value`, but a text that is neither JSON nor a literal stays a text."""
    try:
        return parsed_value(value, "")
    except LeftOut:
        return value


def plain_value(value: object, depth: int = 0) -> object:
    """The same value in the types of JSON: arrays and tuples become lists, bytes texts, other objects their texts.

    Raises: LeftOut for a value that is nested too deep.
    """
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if depth > MAX_DEPTH:
        raise LeftOut("its values are nested too deep")
    if isinstance(value, dict):
        return {str(key): plain_value(one, depth + 1) for key, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain_value(one, depth + 1) for one in value]
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    as_list = getattr(value, "tolist", None)  # numpy's arrays and numbers, as parquet readers give them
    return plain_value(as_list(), depth + 1) if callable(as_list) else str(value)


def object_in(record: JsonObject, *names: str) -> JsonObject:
    """The object of the first of these columns that is filled, parsed if it is a text. Raises: LeftOut."""
    value = parsed_value(column(record, *names), names[0])
    if not isinstance(value, dict):
        raise LeftOut(f"no object in the column {' or '.join(names)}", f"{names[0]} = {shown(value)}: expected an object")
    return value


def maybe_object(value: object) -> JsonObject:
    """The object that a value or its text is; an empty one if it is none."""
    value = maybe_parsed(value)
    return value if isinstance(value, dict) else {}


def list_in(value: object, name: str) -> list[object]:
    """A list, parsed if it is a text. Raises: LeftOut."""
    value = parsed_value(value, name)
    if not isinstance(value, list) or not value:
        raise LeftOut(f"no list in {name}", f"{name} = {shown(value)}: expected a list")
    return value


def last_user_message(messages: object, name: str) -> str:
    """The last message of the user; system messages of other recipes are left out. Raises: LeftOut."""
    messages = parsed_value(messages, name) if isinstance(messages, str) and messages.lstrip().startswith("[") else messages
    said = [one for one in messages if isinstance(one, dict)] if isinstance(messages, list) else []
    asked = [one for one in said if one.get("role", one.get("from")) in ("user", "human")]
    content = asked[-1].get("content", asked[-1].get("value")) if asked else None
    if not isinstance(content, str) or not content.strip():
        expected = "expected chat messages with one of the user's"
        raise LeftOut(f"no message of the user in {name}", f"{name} = {shown(messages)}: {expected}")
    if any(one.get("role") == "assistant" for one in said[: said.index(asked[-1])]):
        raise LeftOut("a conversation of several turns", f"{name} has answers of an assistant before its last question")
    return content


def question_in(record: JsonObject, *names: str) -> str:
    """The question: a text, or the user's message of a chat. Raises: LeftOut."""
    value = column(record, *names)
    if value is None:
        raise LeftOut("no question", f"{names[0]} = {shown(record.get(names[0]))}: expected a text, or chat messages")
    return value if isinstance(value, str) and not value.lstrip().startswith('[{"') else last_user_message(value, names[0])


def texts(values: Iterable[object]) -> list[str]:
    """The texts among the values that have content."""
    return [value for value in values if isinstance(value, str) and value.strip()]


def task_name(record: JsonObject, otherwise: str, *names: str) -> str:
    """A prompt's task: the text of the first of these columns that is filled, if that is a name."""
    value = column(record, *names)
    name = value if isinstance(value, str) and len(value) <= MAX_NAME_CHARS and "://" not in value else otherwise
    return name.strip().lower().replace(" ", "_")

"""Values that files and models write as a text: JSON, or the literals of Python."""

from __future__ import annotations

import ast
import json

MAX_PYTHON_CHARS = 1_000_000  # parsing takes a hundred times the size of the text


def parsed_literal(text: str, otherwise: object = None) -> object:
    """The value of a text of JSON or of a Python literal; `otherwise` for any other text."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return python_literal(text, otherwise)


def python_literal(text: str, otherwise: object = None) -> object:
    """The value of a Python literal; `otherwise` for any other text."""
    if len(text) > MAX_PYTHON_CHARS:
        return otherwise
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
        return otherwise

"""Texts of JSON and of Python have one reader; what is neither gives what the caller asked for."""

import pytest
from prolong.verifiers.answers.literals import MAX_PYTHON_CHARS, parsed_literal, python_literal


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": [1, null]}', {"a": [1, None]}),
        ("{'a': (1, None)}", {"a": (1, None)}),
        (" 'x' ", "x"),
        ("true", True),
        ("True", True),
    ],
)
def test_json_and_python_are_read(text: str, value: object):
    assert parsed_literal(text) == value


@pytest.mark.parametrize("text", ["", "rain", "f(1)", "__import__('os')", "[" * 100_000, "9" * 5_000, "'\x00", "{[]: 1}"])
def test_other_texts_give_what_was_asked_for(text: str):
    assert parsed_literal(text, "otherwise") == "otherwise"


def test_a_very_long_text_is_read_as_json_only():
    text = "[" + "1," * MAX_PYTHON_CHARS + "1]"
    assert len(parsed_literal(text)) == MAX_PYTHON_CHARS + 1  # type: ignore[arg-type]
    assert python_literal(text, "otherwise") == "otherwise"

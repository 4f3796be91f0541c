import json

import pytest
from prolong.verifiers.sandbox.outputs import EXACT, Tolerance, plain_json, same_text, same_value

NEAR = Tolerance(rel=1e-6, abs=1e-9)
HOSTILE = [
    *(
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"[" * 50_000 + b"]" * 50_000,
        b"1" * 5_000,
        b"-" + b"9" * 5_000,
        b"NaN",
        b"-Infinity",
    ),
    *(b'{"a": 1, "a": 2}', b"1 2", b"", b"\xff", b"'x'", b"1\x00", b"{1: 2}", b"\xef\xbb\xbf1"),
]


@pytest.mark.parametrize("raw", HOSTILE, ids=lambda raw: repr(raw[:12]))
def test_hostile_json_is_a_value_error(raw: bytes):
    with pytest.raises(ValueError):  # noqa: PT011  each parser's own words
        plain_json(raw)


def test_plain_values_come_through():
    for value in (None, True, 1, -1.5, "ä\U0001f600", [1, [2]], {"a": {"b": []}}, 10**4000):
        assert plain_json(json.dumps(value).encode()) == value


def test_values_are_equal_in_type_as_well():
    values = [None, False, True, 0, 1, 0.0, 1.0, "", "1", [], [1], [1.0], [True], {}, {"1": 1}, {"1": True}]
    for i, a in enumerate(values):
        for j, b in enumerate(values):
            assert same_value(a, b) == (i == j), (a, b)


def test_tolerance_is_for_expected_floats_alone():
    assert same_value([0.1, {"x": 1e9}], [0.1 + 1e-9, {"x": 1e9 + 1}], NEAR)
    assert same_value(2.0, 2, NEAR)
    for expected, got in (
        (2.0, True),
        (1, 1.0),
        (0.1, 0.10001),
        (1.0, "1.0"),
        (1.0, float("nan")),
        (1.0, 10**400),
        (1.0, None),
    ):
        assert not same_value(expected, got, NEAR)
    assert not same_value(0.3, 0.1 + 0.2, EXACT)


@pytest.mark.parametrize(
    ("expected", "got", "lines", "tokens"),
    [
        ("1 2\n3\n", b"1 2  \r\n3\n\n\n", True, True),
        ("1 2\n3\n", b"1 2 3", False, True),
        ("1 2", b"1  2", False, True),
        ("a", b" a", False, True),
        ("a", b"\n \na", True, True),
        ("a", b"A", False, False),
        ("", b"\n \n", True, True),
        ("1", b"1.0", False, False),
        ("1", b"1 1", False, False),
        ("x", b"x\xff", False, False),
        ("a\u2028b", "a\u2028b".encode(), True, True),
    ],
)
def test_text_is_compared_by_lines_or_by_words(expected: str, got: bytes, lines: bool, tokens: bool):
    assert same_text(expected, got) == lines
    assert same_text(expected, got, "tokens") == tokens


def test_numbers_in_text_may_be_near_where_the_problem_says_so():
    assert same_text("x 1.41421356\n", b"x 1.414213562", "lines", NEAR)
    assert same_text("1000000\n", b"1e6", "lines", NEAR)
    assert not same_text("1\n2", b"1 2", "lines", NEAR)
    assert same_text("1\n2", b"1 2.0", "tokens", NEAR)
    for got in (b"1.42", b"nan", b"inf", b"1_0", b"x", b"1" * 500, b""):
        assert not same_text("1.41421356", got, "lines", NEAR)
    assert not same_text("1.41421356", b"1.414213562")


def test_a_long_output_is_compared_in_linear_time():
    text = "1 " * 50_000 + "\n" * 50_000
    assert same_text(text, text.encode(), "tokens", NEAR)
    assert not same_text(text, b" " * 1_000_000 + b"x")

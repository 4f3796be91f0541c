import json

import pytest
from prolong.verifiers.sandbox.outputs import AS_JUDGES, EXACT, Tolerance, plain_json, same_text, same_value

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


@pytest.mark.parametrize(
    ("expected", "got"),
    [
        ("0.333333333333", "0.333333"),
        ("1.4142135623730951", "1.414213562373095"),
        ("3.0", "3"),
        ("3", "3.0"),
        ("-3", "-3.000"),
        ("0.5", ".5"),
        ("1e-05", "0.00001"),
        ("123456789.123456", "123456789.2"),
        ("2.50", "2.5"),
        ("Case 1: 0.3333333", "Case 1: 0.33333334"),
        ("0.1 0.2\n0.3", "0.10000001  0.2\n0.3"),
        ("1 2", "1  2"),
        ("12345678901234567890", "12345678901234567890"),
        ("-0.0", "0.0000001"),
    ],
)
def test_expected_decimals_may_be_near(expected: str, got: str):
    assert same_text(expected, got.encode(), "lines", AS_JUDGES)
    assert same_text(expected, got.encode(), "tokens", AS_JUDGES)


@pytest.mark.parametrize(
    ("expected", "got"),
    [
        ("3", "3.0000001"),
        ("3", "2.9999999"),
        ("3", "3e0"),
        ("12345678901234567890", "12345678901234567891"),
        ("12345678901234567890", "1.2345678901234567890e19"),
        ("1000000", "1000001"),
        ("0.3333333", "0.33334"),
        ("0.5", "0.500002"),
        ("3.14", "3.14159"),
        ("1000000.50", "1000001.00"),
        ("99999999.9", "99999998.9"),
        ("0.1", "0,1"),
        ("1.0", "nan"),
        ("1e400", "1e500"),
        ("1.10.2", "1.1.2"),
        ("0.5 0.5", "0.5"),
        ("0.5\n0.5", "0.5 0.5 0.5"),
        ("yes", "YES"),
        ("1.0 x", "1.0 y"),
        ("007", "7.0"),
    ],
)
def test_near_misses_are_wrong(expected: str, got: str):
    assert not same_text(expected, got.encode(), "lines", AS_JUDGES)
    assert not same_text(expected, got.encode(), "tokens", AS_JUDGES)


def test_layout_counts_where_a_line_holds_more_than_numbers():
    assert not same_text("a  b", b"a b", "lines", AS_JUDGES)
    assert not same_text(" *\n***", b"*\n***", "lines", AS_JUDGES)
    assert not same_text("1 2 3", b"1\n2\n3", "lines", AS_JUDGES)


def test_returned_numbers_may_stand_for_expected_floats_alone():
    for expected, got in ((2.0, 2), (0.3, 0.1 + 0.2), ([0.1, [0.2]], [0.1, [0.2 + 1e-9]]), ({"a": 1.5}, {"a": 1.5000001})):
        assert same_value(expected, got, AS_JUDGES)
    for expected, got in (
        (2, 2.0),
        (1, True),
        (1.0, True),
        (0.3, 0.30001),
        (10**20, 1e20),
        ("0.3", 0.3),
        ([1], 1),
        (1.0, [1.0]),
    ):
        assert not same_value(expected, got, AS_JUDGES)

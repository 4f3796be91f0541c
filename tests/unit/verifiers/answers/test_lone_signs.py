"""A sign of comparison in front of an answer is part of it."""

import pytest
from prolong.verifiers.math import MATH

from tests.support.boxes import boxed_reward

SAME = [
    ("\\le 7", "\\leq 7"),
    ("x < 7", "< 7"),
    ("\\ge 7", "x \\geq 7"),
    ("\\neq 0", "x \\ne 0"),
    ("7", "= 7"),
]
DIFFERENT = [
    ("7", "< 7"),
    ("7", "\\le 7"),
    ("7", "\\geq 7"),
    ("7", "\\neq 7"),
    ("< 7", "7"),
    ("< 7", "> 7"),
    ("x < 7", "> 7"),
    ("x < 7", "\\le 7"),
    ("\\frac{1}{2}", "> \\frac{1}{2}"),
    ("x^2", "< x^2"),
]


@pytest.fixture(scope="module", autouse=True)
def _algebra():
    MATH.load()


@pytest.mark.parametrize(("gold", "boxed"), SAME)
def test_the_same_comparison_is_the_same(gold: str, boxed: str):
    assert boxed_reward(MATH, gold, boxed) == 1.0


@pytest.mark.parametrize(("gold", "boxed"), DIFFERENT)
def test_another_comparison_or_a_bare_value_is_not(gold: str, boxed: str):
    assert boxed_reward(MATH, gold, boxed) == 0.0

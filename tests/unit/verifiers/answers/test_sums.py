"""An index of a sum is a name like any other."""

import pytest
from prolong.verifiers.answers.sums import with_plain_indices
from prolong.verifiers.math import MATH

from tests.support.boxes import boxed_reward

PAIRS = [  # (stored answer, completion's, whether they are equal)
    ("\\sum_{i=1}^{n} i^2", "\\sum_{k=1}^n k^2", True),
    ("\\sum_{i=1}^{n} i^2", "\\sum_{k=1}^n k^3", False),
    ("\\frac{n(n+1)}{2}", "\\sum_{i=1}^{n} i", True),
    ("\\sum_{i=1}^{n} a_i", "\\sum_{j=1}^{n} a_j", True),
    ("\\sum_{i=1}^{n} a_i", "\\sum_{j=1}^{n} a_n", False),
    ("\\sum_{j=1}^{k} j^{j}", "\\sum_{i=1}^{k} i^{i}", True),
    ("\\sum_{j=1}^{k} j^{j}", "\\sum_{i=1}^{k} i^{k}", False),
    ("55", "\\sum_{i=1}^{10} i", True),
    ("1+2i", "1+2k", False),
    ("\\bar z", "\\overline{z}", True),
    ("\\bar{x}", "x", False),
]


@pytest.fixture(scope="module", autouse=True)
def _algebra():
    MATH.load()


@pytest.mark.parametrize(("gold", "boxed", "equal"), PAIRS)
def test_sums_with_other_names_of_their_indices_are_equal(gold: str, boxed: str, equal: bool):
    assert boxed_reward(MATH, gold, boxed) == float(equal)


def test_names_that_are_taken_stay_free():
    assert with_plain_indices("\\sum_{i=1}^{k} i m") == "\\sum_{p=1}^{k} p m"
    assert with_plain_indices("\\sum_{i=1}^{n}\\prod_{j=1}^{n} ij") == "\\sum_{k=1}^{n}\\prod_{m=1}^{n} km"
    assert with_plain_indices("2i\\sin x") == "2i\\sin x"

r"""Pairs that the code once judged wrongly, found by an adversarial reader: (stored, boxed, right verdict)."""

from typing import Any

import pytest
from prolong.common.errors import DataError
from prolong.verifiers import math, stem
from prolong.verifiers.api import Task

from tests.support.boxes import boxed_reward

MATH = [
    # letters of both cases, primes and marks carry meaning
    ("R-r", "r-R", False),
    ("R-r", "0", False),
    (r"\pi(R^2-r^2)", r"\pi(r^2-R^2)", False),
    (r"\pi(R^2-r^2)", r"\pi(R-r)(R+r)", True),
    ("2Ab", "2aB", False),
    (r"2\Omega", r"2\omega", False),
    (r"\frac{\Gamma}{2}", r"\frac{\gamma}{2}", False),
    ("f'(x)", "f(x)", False),
    ("f'(x)=2x", "2x", True),
    ("y''+y=0", "y'+y=0", False),
    ("y''+y=0", r"y+y^{\prime\prime}=0", False),
    ("l ⊥ m", "l ∥ m", False),
    (r"\text{No}", "NO", True),
    ("infinitely many", "Infinitely-many.", True),
    ("[1,2]", "]1,2[", False),
    ("[1,2]", "[1,2[", False),
    # words behind a number
    ("5", r"5\text{ million}", False),
    (r"5\text{ million}", "5", False),
    (r"5\text{ million}", "5{,}000{,}000", True),
    ("5000000", "5 million", True),
    ("1500000", r"\$1.5 \text{ million}", True),
    ("5", "5 dozen", False),
    ("3", r"3\text{ squared}", False),
    ("2", r"2 \text{ factorial}", False),
    ("2", "2 sin(x)", False),
    ("2", "2abc", False),
    ("2xyz", "2", False),
    ("10", "10 ways", True),
    ("8", r"8 \text{ does not work}", False),
    ("8", r"8 \text{ (false)}", False),
    ("8", "8 is impossible", False),
    ("8", "8 wrong", False),
    ("8", r"8 \text{ for even } n", False),
    ("8", r"8 \text{ when } n \text{ is even}", False),
    ("8", "8 (for odd n)", False),
    ("8", "8 only for large n", False),
    ("8", "8 for every n", True),
    ("8", r"8 \text{ (where } n \text{ is a positive integer)}", True),
    ("8", "8 for each person", True),
    ("8", r"8 \text{ for the first year}", True),
    ("8", "2**3", True),
    ("23", "2**3", False),
    ("23", "**23**", True),
    # sets, lists, names
    (r"x\in\mathbb{Z}", r"x\in\mathbb{N}", False),
    (r"2k\pi, k\in\mathbb{Z}", r"2\pi k", True),
    (r"|x|<1+\sqrt2", r"-1+\sqrt2<x<1+\sqrt2", False),
    (r"|x|<1+\sqrt2", r"-1-\sqrt2<x<1+\sqrt2", True),
    ("x=1, y=2", "2, 1", False),
    ("x=1, y=2", "1, 2", True),
    ("(x,y)=(1,2)", "(1,2)", True),
    ("(x,y)=(1,2)", "(2,1)", False),
    (r"\begin{cases}x=1\\y=2\end{cases}", "x=1, y=2", True),
    (r"\begin{cases}x=1\\y=2\end{cases}", "(2,1)", False),
    ("100, 200", "200, 100", True),
    ("100, 200", "100200", False),
    (r"\begin{vmatrix}1&2\\3&4\end{vmatrix}", "-2", True),
    (r"\begin{vmatrix}1&2\\3&4\end{vmatrix}", "2", False),
    (r"\begin{vmatrix}1&2\\3&4\end{vmatrix}", r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", False),
    ("100 , 200", "200 , 100", True),
    (r"\{(0,1)\}", "(0,1)", True),
    ("[-a-1,a+1]", r"|x|\le a+1", True),
    (r"f^{-1}(x)=\frac{x-1}{2}", r"\frac{x-1}{2}", True),
    ("(0,1)", r"\{0,1\}", False),
    ("x+y=4", "4", False),
    (r"20^\circ", r"20\%", False),
    (r"20\%\text{ profit}", "20", True),
    (r"25\%\text{ off}", "25", True),
    (r"2\pi\text{ rad}", r"360^\circ", True),
]
STEM = [
    ("1,000", "1005", False),
    ("1,000", "1000.0", True),
    ("5 kg", "5 Kg", True),
    ("5 min", "5 mins", True),
    ("5 h", "5 hrs", True),
    ("2 years", "2 yrs", True),
    ("5 kJ", "5 KJ", True),
    ("5 kJ", "5 MJ", False),
    ("298 K", r"298^\circ K", True),
    ("25 °C", "25 degrees Celsius", True),
    ("25 °C", r"25 \text{ deg C}", True),
    ("25 °C", "25 degrees Fahrenheit", False),
    ("Rr", "rr", False),
    ("AaBb", "aabb", False),
    ("Dominant", "dominant", True),
    ("R-r", "r-R", False),
    (r"\Delta H", r"\delta H", False),
    ("first-order", "first order", True),
    ("Ca^{2+}", "Ca^{+2}", True),
    ("Ca^{2+}", "Ca^{+}", False),
    ("1s^2 2s^2 2p^6", "1s^22s^22p^6", True),
    ("1s^2 2s^2 2p^6", "1s^{2}2s^{2}2p^{5}", False),
    ("A, C", "C and A", True),
    ("A and C", "(A), (C)", True),
    ("A, C", "A", False),
]
NUMBER = [
    (r"\boxed{x = 18}", True),
    (r"\boxed{\$18}", True),
    (r"\boxed{18\text{ dollars}}", True),
    (r"\boxed{18\text{ thousand}}", False),
    ("18-18", True),
    ("30-18 is more than -18", False),
    ("It is <answer>18</answer>, between the tags <answer> and </answer>.", False),
    ("<answer>18</answer> ends with </answer>", True),
]


@pytest.fixture(scope="module", autouse=True)
def loaded() -> None:
    math.MATH.load()


@pytest.mark.parametrize(("gold", "given", "right"), MATH)
def test_math(gold: str, given: str, right: bool):
    assert boxed_reward(math.MATH, gold, given) == float(right)


@pytest.mark.parametrize(("gold", "given", "right"), STEM)
def test_stem(gold: str, given: str, right: bool):
    assert boxed_reward(stem.STEM, gold, given) == float(right)


@pytest.mark.parametrize(("completion", "right"), NUMBER)
def test_number(completion: str, right: bool):
    assert math.NUMBER.score(Task(completion=completion, answer={"answer": "18"})).reward == float(right)


@pytest.mark.parametrize("tolerance", ["0.1", None, -1, True, float("nan")])
def test_number_refuses_a_tolerance_that_is_none(tolerance: Any):
    with pytest.raises(DataError, match="tolerance"):
        math.NUMBER.check({"answer": 5, "tolerance": tolerance})


def test_number_reads_no_answer_of_a_million_characters():
    assert math.NUMBER.score(Task(completion="\\boxed{" + "°" * 900_000 + "}", answer={"answer": 5})).status == "input_rejected"

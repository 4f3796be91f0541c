"""One test for each scorer of ours: the library's fault, shown with its own scorer where that is safe, and our reward."""

from fractions import Fraction
from typing import Any

import pytest
import reasoning_gym
from prolong.verifiers.logic.arithmetic import evaluate
from prolong.verifiers.logic.replaced_scorers import REPLACED, replaced_score

CODE = "__import__('os').getpid()"
QUEENS = "_ Q\nQ _"
Case = tuple[str, dict[str, Any], dict[str, float]]
CASES: list[Case] = [
    ("binary_matrix", {"answer": "0 1\n1 2"}, {"0 1\n1 2": 1, "[[0, 1], [1, 2]]": 0.1, "[[0, 1]]": 0, "[0, 1]": 0, CODE: 0}),
    ("spiral_matrix", {"answer": "1 2 4 3"}, {"1 2 4 3": 1, "[1, 2, 4, 3]": 0.1, "[1, 2]": 0, "1": 0, CODE: 0}),
    ("string_insertion", {"answer": "ABCDA"}, {"ABCDA": 1, "['A', 'B', 'C', 'D', 'A']": 0.1, '"ABCDA"': 0, CODE: 0}),
    (
        "n_queens",
        {"metadata": {"valid_answers": [QUEENS]}},
        {QUEENS: 1, "[['_', 'Q'], ['Q', '_']]": 0.5, "Q _\n_ Q": 0, "[['Q']]": 0, CODE: 0},
    ),
    (
        "countdown",
        {"metadata": {"numbers": [67, 50, 20, 82], "target": 119}},
        {"82 + 20 + 67 - 50": 1, "(82+20)+(67-50)": 1, "119": 0, "82 + 20 + 17": 0, "67 + 50 + 20 - 82": 0, CODE: 0},
    ),
    (
        "puzzle24",
        {"metadata": {"numbers": [4, 8, 6, 2]}},
        {"4*8 - 6 - 2": 1, "4 \u00d7 8 \u2212 (6 + 2)": 1, "6*4*1*1": 0, "8*6/2": 0, "4*8 - 6": 0, CODE: 0},
    ),
    ("game_of_life_halting", {"answer": "False"}, {"False": 1, "false": 1, "True": 0, "no idea": 0, "": 0}),
    (
        "prime_factorization",
        {"answer": "2 \u00d7 2 \u00d7 3"},
        {"2 \u00d7 3 \u00d7 2": 1, "3*2*2": 1, "12": 0, "4 \u00d7 3": 0, "two": 0, "": 0, "\u00d7": 0},
    ),
    ("polynomial_equations", {"answer": "-0.5, 2.0"}, {"2, -0.5": 1, "-0.5": 0, "-0.5, 2, 3": 0, "nan, 2": 0, "a, b": 0}),
    ("polynomial_equations", {"answer": ""}, {"": 1, "there are none": 0, "0": 0, "inf": 0}),
    (
        "complex_arithmetic",
        {"metadata": {"result": [3, -4]}},
        {"3.0 - 4.0i": 1, "(3-4i)": 1, "3-4*i": 1, "nan": 0, "nan+nani": 0, "inf": 0, "three": 0},
    ),
    (
        "decimal_arithmetic",
        {"answer": "4.86090396050", "metadata": {"difficulty": {"decimal_places": [3, 3]}}},
        {"4.8609039605": 1, "4.861": 1, "4.87": 0, "nan": 0, "inf": 0, "1e999999": 0, "x": 0},
    ),
    (
        "number_sorting",
        {"answer": "['-3', '2.5', '10']"},
        {
            "['-3', '2.5', '10']": 1,
            "[-3, 2.50, 10]": 1,
            "['-3', '3.4', '10.9']": 0,
            "['10', '2.5', '-3']": 0,
            "[[1]]": 0,
            "7": 0,
        },
    ),
    ("bitwise_arithmetic", {"answer": "-0x1f"}, {"-0x1f": 1, "-31": 1, "0x1f": 0, "1f": 0, CODE: 0}),
    (
        "arc_agi",
        {"metadata": {"output": [[1, 0], [2, 2]]}},
        {"1 0\n2 2": 1, "1  0\n\n2 2\n": 1, "1 0": 0, "1 0\n2 3": 0, "": 0},
    ),
    ("rearc", {"metadata": {"output": [[7]]}}, {"7": 1, "8": 0}),
]


def test_every_scorer_has_a_case():
    assert {name for name, _, _ in CASES} == set(REPLACED)


@pytest.mark.parametrize(("name", "entry", "pays"), CASES)
def test_a_right_answer_earns_one_and_what_theirs_pays_for_earns_nothing(name: str, entry: dict, pays: dict[str, float]):
    assert {given: replaced_score(name, given, entry) for given in pays} == pays


@pytest.mark.parametrize("name", sorted(REPLACED))
@pytest.mark.parametrize(
    "given", ["[" * 90_000, "9" * 50_000, "(" * 400 + "1", "{}", "\x00", "-" * 499, "1e9999", "\u0664", "[NaN]"]
)
def test_hostile_answers_earn_next_to_nothing_and_raise_nothing(name: str, given: str):
    entry = next(entry for known, entry, _ in CASES if known == name)
    assert replaced_score(name, given, entry) < 0.1


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("game_of_life_halting", "no idea"),
        ("complex_arithmetic", "nan"),
        ("puzzle24", "6*4*1*1"),
        ("prime_factorization", "12"),
    ],
)
def test_theirs_pays_for_it(name: str, wrong: str):
    """If one of these fails, a later version of Reasoning Gym fixed it, and our scorer can go."""
    dataset = reasoning_gym.create_dataset(name, seed=1, size=1)
    entry = next(entry for known, entry, _ in CASES if known == name)
    entry = {"answer": entry.get("answer", "x"), "metadata": entry.get("metadata", {})}
    assert dataset.score_answer(wrong, entry) >= 0.5


@pytest.mark.parametrize(
    ("text", "value"), [("2+3*4", 14), ("-(2-5)", 3), ("7/2/7", Fraction(1, 2)), ("[1+2]*3", 9), ("--1", 1)]
)
def test_expressions_have_the_value_of_school(text: str, value: int | Fraction):
    assert evaluate(text)[0] == value


def test_an_expression_names_the_integers_it_uses():
    assert evaluate("12*(3 - 12)")[1] == [12, 3, 12]


@pytest.mark.parametrize("text", ["", "1+", "1 2", "2**3", "1/0", "(1", "1)", "1.5", "a", "1//2", "9" * 19, "1+" * 300 + "1"])
def test_anything_else_is_no_expression(text: str):
    with pytest.raises(ValueError, match=r"empty|cannot read|where|ends too early|closed|division|should end"):
        evaluate(text)

"""Scorers of ours that read a value or an expression: the library's fault, the usual spellings, near misses."""

from fractions import Fraction
from typing import Any

import pytest
import reasoning_gym
from prolong.verifiers.logic.arithmetic import evaluate
from prolong.verifiers.logic.reasoning_gym import OURS, judge_puzzle
from prolong.verifiers.logic.replaced_scorers import REPLACED

CODE = "__import__('os').getpid()"
QUEENS = "_ Q\nQ _"
CIRCLE = {"answer": "15.042", "metadata": {"task_type": "incircle_radius"}}
ANGLE = {"answer": "120.43\u00b0", "metadata": {"task_type": "angle_measure"}}
CENTRE = {"answer": "(4.051, -5.487)", "metadata": {"task_type": "orthocenter", "ortho": ["158/39", "-214/39"]}}
Case = tuple[str, dict[str, Any], dict[str, float]]
CASES: list[Case] = [
    (
        "n_queens",
        {"metadata": {"valid_answers": [QUEENS]}},
        {QUEENS: 1, "[['_', 'Q'], ['Q', '_']]": 1, "Q _\n_ Q": 0, "[['Q']]": 0, "_ Q Q _": 0, "Q Q\nQ Q": 0, CODE: 0},
    ),
    (
        "countdown",
        {"metadata": {"numbers": [67, 50, 20, 82], "target": 119}},
        {
            "82 + 20 + 67 - 50": 1,
            "(82+20)+(67-50)": 1,
            "82 + 20 + 67 - 50 = 119": 1,
            "119 = 82 + 20 + 67 - 50": 1,
            r"\boxed{82 + 20 + 67 - 50}": 1,
            r"$\left(82 + 20\right) + 67 - 50$": 1,
            "82 + 20 + 67 \u2212 50.": 1,
            "The answer is 82+20+67-50.": 1,
            "119": 0,
            "119 = 119": 0,
            "82 + 20 + 17": 0,
            "67 + 50 + 20 - 82": 0,
            "67 + 50 + 20 - 82 = 119": 0,
            "82 + 20 + 67 - 50 = 120": 0,
            "82 + 20 + 67 - 50 = 118 = 119": 0,
            "82 + 20 + 67 - 50 or 82 - 20": 0,
            r"\boxed{82+20+67-50} or \boxed{82+20}": 0,
            CODE: 0,
        },
    ),
    (
        "puzzle24",
        {"metadata": {"numbers": [4, 8, 6, 2]}},
        {
            "4*8 - 6 - 2": 1,
            "4 \u00d7 8 \u2212 (6 + 2)": 1,
            r"4 \times 8 - 6 - 2": 1,
            r"4 \cdot 8 - 6 - 2 = 24": 1,
            "4 x 8 - 6 - 2": 1,
            r"\frac{8}{2} \cdot 6 \cdot 4": 0,
            r"\frac{8 \cdot 6}{2} \cdot 4": 0,
            "4(8 - 2) ": 0,
            "8(6 - 4) + 2": 0,
            "6*4*1*1": 0,
            "8*6/2": 0,
            "4*8 - 6": 0,
            "4*8 - 6 - 2 = 25": 0,
        },
    ),
    (
        "prime_factorization",
        {"answer": "2 \u00d7 2 \u00d7 3"},
        {
            "2 \u00d7 3 \u00d7 2": 1,
            "3*2*2": 1,
            r"2^2 \times 3": 1,
            "2^{2} \u00b7 3": 1,
            "2**2 * 3": 1,
            "2\u00b2\u00d73": 1,
            "12 = 2^2 * 3": 1,
            "2 x 2 x 3": 1,
            "[2, 2, 3]": 1,
            r"\boxed{2 \cdot 2 \cdot 3}": 1,
            "12": 0,
            "4 \u00d7 3": 0,
            "2 \u00d7 3": 0,
            "2^3 \u00d7 3": 0,
            "2^2 \u00d7 3 \u00d7 1": 0,
            "13 = 2^2 * 3": 0,
            "2^2 * 3 or 2 * 6": 0,
            "2^99 * 3": 0,
            "two": 0,
            "": 0,
            "\u00d7": 0,
        },
    ),
    (
        "polynomial_equations",
        {"answer": "-0.5, 2.0"},
        {
            "2, -0.5": 1,
            "x = -0.5, x = 2": 1,
            "-0.5 and 2": 1,
            "[-1/2, 2]": 1,
            "-0.50001, 2.0": 1,
            "-0.5": 0,
            "-0.5, 2, 3": 0,
            "-0.51, 2": 0,
            "2, 2": 0,
            "nan, 2": 0,
            "a, b": 0,
        },
    ),
    ("polynomial_equations", {"answer": ""}, {"": 1, "no real solutions": 1, "there are many": 0, "0": 0, "inf": 0}),
    (
        "complex_arithmetic",
        {"metadata": {"result": [3, -4]}},
        {
            "3.0 - 4.0i": 1,
            "(3-4i)": 1,
            "3-4*i": 1,
            "$3 \u2212 4i$": 1,
            "3+4i": 0,
            "3-4.1i": 0,
            "3": 0,
            "nan": 0,
            "nan+nani": 0,
            "inf": 0,
        },
    ),
    (
        "decimal_arithmetic",
        {"answer": "4.86090396050", "metadata": {"difficulty": {"decimal_places": [3, 3]}}},
        {"4.8609039605": 1, "4.861": 1, "= 4.861": 0, "4.87": 0, "nan": 0, "inf": 0, "1e999999": 0, "x": 0},
    ),
    (
        "bitwise_arithmetic",
        {"answer": "-0x1f"},
        {"-0x1f": 1, "-31": 1, "\u22120x1F": 1, "`-0x1f`": 1, "0x1f": 0, "1f": 0, CODE: 0},
    ),
    (
        "coin_flip",
        {"answer": "0.375", "metadata": {"rational": {"numerator": 3, "denominator": 8}}},
        {
            "3/8": 1,
            "0.375": 1,
            r"\frac{3}{8}": 1,
            r"\boxed{\frac{3}{8}}": 1,
            "37.5%": 1,
            r"37.5\%": 1,
            "0.37500": 1,
            "6/16": 1,
            r"\frac38": 1,
            "P = 3/8": 1,
            "P(X=2) = 3/8 = 0.375": 1,
            "0.375 (3/8)": 1,
            "The probability is 3/8.": 1,
            "3/8 = 0.38": 0,
            "3/8 = 1/2": 0,
            "0.375 (1/2)": 0,
            "1/2 (3/8)": 0,
            "3/8 = 0.375 = 3/8 = 0.375 = 1": 0,
            "0.3": 0,
            "0.37": 0,
            "0": 0,
            "3": 0,
            "0.3751 or 0.375": 0,
            "8/3": 0,
            "0.38": 0,
            "375": 0,
            "38%": 0,
            "3/8.": 1,
        },
    ),
    (
        "coin_flip",
        {"answer": "0.00001", "metadata": {"rational": {"numerator": 1, "denominator": 100000}}},
        {"0": 0, "1e-5": 1},
    ),
    ("advanced_geometry", CIRCLE, {"15.042": 1, "15.0421": 1, r"\boxed{15.042}": 1, "15.04": 0, "15": 0, "": 0}),
    ("advanced_geometry", ANGLE, {"120.43\u00b0": 1, "120.43": 1, r"120.43^\circ": 1, "120.4\u00b0": 0, "121": 0}),
    (
        "advanced_geometry",
        CENTRE,
        {"(4.051, -5.487)": 1, "4.051,-5.487": 1, "(158/39, -214/39)": 1, "(-5.487, 4.051)": 0, "(4, -5)": 0},
    ),
    (
        "spell_backward",
        {"answer": "tenalp"},
        {"tenalp": 1, "TENALP.": 1, "tenalq": 5 / 6, "tanelp": 1 / 6, "planet": 0, "eeeeee": 0, "tenalpx": 0, "ten": 0},
    ),
]


def judged(name: str, given: str, entry: dict[str, Any]) -> float:
    return judge_puzzle(given, {"dataset": name, "entry": entry})


def test_every_scorer_has_a_case():
    assert {name for name, _, _ in CASES} == set(REPLACED)


@pytest.mark.parametrize(("name", "entry", "pays"), CASES)
def test_a_right_answer_earns_one_however_it_is_written_and_near_misses_nothing(name: str, entry: dict, pays: dict[str, float]):
    assert {given: judged(name, given, entry) for given in pays} == pays


@pytest.mark.parametrize("name", sorted(REPLACED))
@pytest.mark.parametrize(
    "given", ["[" * 90_000, "9" * 50_000, "(" * 400 + "1", "{}", "\x00", "-" * 499, "1e9999", "\u0664", "[NaN]", "= " * 9000]
)
def test_hostile_answers_earn_nothing_and_raise_nothing(name: str, given: str):
    entry = next(entry for known, entry, _ in CASES if known == name)
    assert judged(name, given, entry) == 0


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("game_of_life_halting", "no idea"),
        ("complex_arithmetic", "nan"),
        ("puzzle24", "6*4*1*1"),
        ("prime_factorization", "12"),
        ("coin_flip", "0"),
        ("knights_knaves", "Amelia is a knight, and Emma is a knight."),
    ],
)
def test_theirs_pays_for_it(name: str, wrong: str):
    """If one of these fails, a later version of Reasoning Gym fixed it, and our scorer can go."""
    dataset = reasoning_gym.create_dataset(name, seed=1, size=1)
    entry = next((entry for known, entry, _ in CASES if known == name), {"answer": "Amelia is a knight, and Emma is a knave."})
    entry = {"answer": entry.get("answer", "x"), "metadata": entry.get("metadata", {})}
    assert dataset.score_answer(wrong, entry) >= 0.5
    assert name in OURS
    if name != "game_of_life_halting":
        assert judged(name, wrong, entry) == 0


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2+3*4", 14),
        ("-(2-5)", 3),
        ("7/2/7", Fraction(1, 2)),
        ("[1+2]*3", 9),
        ("--1", 1),
        ("2(3+4)", 14),
        ("(1+1)(2+3)", 10),
        (r"\frac{7}{2}", Fraction(7, 2)),
        (r"\dfrac{1+\frac{6}{3}}{3}", 1),
        (r"3 \times \left(5 - 1\right)", 12),
        ("3 x 5", 15),
        ("8 \u00f7 2 \u00b7 3", 12),
        ("{1+2}*3", 9),
    ],
)
def test_expressions_have_the_value_of_school(text: str, value: int | Fraction):
    assert evaluate(text)[0] == value


def test_an_expression_names_the_integers_it_uses():
    assert evaluate("12*(3 - 12)")[1] == [12, 3, 12]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1+",
        "1 2",
        "2**3",
        "1/0",
        "(1",
        "1)",
        "1.5",
        "a",
        "1//2",
        "9" * 19,
        "1+" * 300 + "1",
        "8/2(3+1)",
        r"\sqrt{4}",
        "2^3",
    ],
)
def test_anything_else_is_no_expression(text: str):
    with pytest.raises(ValueError, match=r"empty|cannot read|where|ends too early|closed|division|should end"):
        evaluate(text)

import itertools
import os

import pytest
import reasoning_gym
import sympy
from prolong.verifiers.data import puzzles
from prolong.verifiers.logic.reasoning_gym import formulas

from tests.support.hostile_formulas import FORMLESS, INTEGRAL, RIGHT, WRONG, in_octal

PRODUCT = {"answer": "x**2 - 1", "metadata": {"variables": ["x"]}}
ENTRY = INTEGRAL["entry"]


@pytest.mark.parametrize("name", FORMLESS)
def test_what_is_no_formula_is_not_evaluated(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sympy, "parse_expr", None)
    assert not formulas.is_formula(FORMLESS[name], ENTRY)
    assert formulas.judge_formula("simple_integration", FORMLESS[name], ENTRY) == 0.0


@pytest.mark.parametrize("name", WRONG)
def test_formulas_that_are_wrong_or_malformed_earn_nothing(name: str):
    assert formulas.judge_formula("simple_integration", WRONG[name], ENTRY) == 0.0


def test_sympy_executes_strings_that_have_no_letters(monkeypatch: pytest.MonkeyPatch):
    """The reason why quotes are refused, and not only words."""
    monkeypatch.delenv("FORGED", raising=False)
    attack = in_octal("__import__('os').environ.setdefault('FORGED', '1') and 1")
    sympy.parse_expr(attack)
    assert os.environ.pop("FORGED") == "1"
    assert formulas.judge_formula("simple_integration", attack, ENTRY) == 0.0
    assert "FORGED" not in os.environ


@pytest.mark.parametrize("given", [RIGHT, "X**3", "X*X*X + 5 + C", "X**3 + pi*E", "(X\n**3)", "+X**3 - log(C, 2)", "1E0*X**3"])
def test_right_antiderivatives_are_right_however_they_are_written(given: str):
    assert formulas.judge_formula("simple_integration", given, ENTRY) == 1.0


@pytest.mark.parametrize(
    "given",
    [
        r"\boxed{X^3 + C}", "$X^3 + C$", "X^{3}+C", r"\frac{2*X^3}{2}", r"\frac{2}{2} \cdot X^3 + \sin(2) + C",
        "X\u00d7X\u00d7X \u2212 C", "The answer is X**3 + C.", "`X**3 + C`", r"\left(X\right)^3 + C",
        "```python\nX**3 + C\n```",
    ],
)  # fmt: skip
def test_formulas_of_latex_and_of_school_are_spelled_in_python(given: str):
    assert not formulas.is_formula(given, ENTRY)
    assert formulas.judge_formula("simple_integration", formulas.spelled(given), ENTRY) == 1.0


@pytest.mark.parametrize(
    "given", [r"\boxed{X^4 + C}", "X^{2}+C", r"\frac{X^3}{2} + C", "X^3 or X^2", r"\boxed{X^3}\boxed{X^2}", "X\u22123"]
)
def test_wrong_formulas_stay_wrong_however_they_are_spelled(given: str):
    assert formulas.judge_formula("simple_integration", formulas.spelled(given), ENTRY) == 0.0


@pytest.mark.parametrize("name", FORMLESS)
def test_no_hostile_text_becomes_a_formula_by_its_spelling(name: str):
    assert not formulas.is_formula(formulas.spelled(FORMLESS[name]), ENTRY)


def test_a_product_must_be_expanded():
    assert formulas.judge_formula("polynomial_multiplication", "-1 + x*x", PRODUCT) == 1.0
    for given in ("(x - 1)*(x + 1)", "x**2", "x**2 - 1 + C"):
        assert formulas.judge_formula("polynomial_multiplication", given, PRODUCT) == 0.0


@pytest.mark.parametrize("name", sorted(formulas.SCORERS))
def test_the_rewards_are_those_of_reasoning_gym(name: str):
    dataset = reasoning_gym.create_dataset(name, seed=4, size=3)
    for made in dataset:
        entry = puzzles.stored(made)
        gold = entry["answer"].strip()
        for given in (gold, gold.replace("3", "4"), f"2*({gold})", f"{gold} + 1", f"({gold}) + 0", gold[:-1], f"{gold}.5", "x"):
            if formulas.is_formula(given, entry):  # the library has no such rule
                assert formulas.judge_formula(name, given, entry) == dataset.score_answer(given, made), given


@pytest.mark.parametrize(
    "metadata",
    [None, {}, {"variable": "eval"}, {"variable": ["X"]}, {"variables": 3}, {"variables": ["__import__", 5, "X.y"]}],
)
def test_variables_of_a_broken_entry_are_not_believed(metadata: object):
    entry = {"answer": "1", "metadata": metadata}
    for given in ("X", "eval", "__import__", "X.y"):
        assert not formulas.is_formula(given, entry)


def test_a_stored_integrand_that_is_no_formula_is_not_evaluated():
    entry = {"answer": "X", "metadata": {"variable": "X", "integrand": in_octal("1")}}
    with pytest.raises(ValueError, match="is not a formula"):
        formulas.judge_formula("simple_integration", "X", entry)


def test_every_text_of_known_tokens_is_read_as_python_reads_it():
    """No three tokens of ours make an attribute, a string, a keyword or a statement in Python."""
    import io
    import tokenize

    tokens = ["1", "1.", ".5", "1E5", "0", "X", "E", "sin", "I", "(", ")", ",", ".", "*", "/", "-"]
    for three in itertools.product(tokens, repeat=3):
        text = "".join(three)
        if formulas.is_formula(text, ENTRY):
            try:
                read = list(tokenize.generate_tokens(io.StringIO(text).readline))
            except (SyntaxError, tokenize.TokenError):
                continue
            assert not [token for token in read if token.string in (".", "=") or token.type == tokenize.STRING], text
            assert {token.string for token in read if token.type == tokenize.NAME} <= {"X", "E", "sin", "I"}, text


def test_the_question_whether_it_is_a_formula_is_linear():
    for text in ("1" * 50_000 + "?", "1." * 25_000 + "?", "X" * 50_000, "1e" * 25_000 + "?"):
        assert not formulas.is_formula(text, ENTRY)

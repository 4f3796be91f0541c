import subprocess
import sys

import pytest
from prolong.common.errors import DataError
from prolong.verifiers import math
from prolong.verifiers.answers import bounds
from prolong.verifiers.answers.algebra import has_huge_number
from prolong.verifiers.answers.plain_numbers import number
from prolong.verifiers.api import Score, Task


@pytest.fixture(scope="module")
def loaded() -> None:
    math.MATH.load()


def judged(gold: str | int | float, completion: str) -> Score:
    task = Task(completion=completion, answer={"answer": gold})
    return math.MATH.quick(task) or math.MATH.score(task)


@pytest.mark.parametrize(
    ("completion", "status"),
    [
        ("<think>\\boxed{932}</think>", "no_answer"),
        ("<think>\\boxed{932}", "no_answer"),
        ("\\boxed{932", "no_answer"),
        ("932", "no_answer"),
        ("\\boxed{}", "no_answer"),
        ("", "no_answer"),
        ("\\boxed{932}<think>\\boxed{1}</think>\\boxed{1}", "ok"),
        ("\\boxed{932} or \\boxed{933}", "ok"),
        ("\\boxed{" + "9" * 200_000 + "}", "input_rejected"),
        ("\\boxed{" + "{" * 50_000 + "}" * 50_000 + "}", "input_rejected"),
    ],
)
def test_forged_boxes_earn_nothing_without_algebra(completion: str, status: str):
    score = math.MATH.quick(Task(completion=completion, answer={"answer": "932"}))
    assert score is not None
    assert (score.reward, score.status) == (0.0, status)


def test_a_gold_in_its_own_box_and_a_numeric_gold_are_understood():
    assert judged("\\boxed{12}", "\\boxed{12}").reward == 1.0
    assert judged(12, "\\boxed{12}").reward == 1.0
    assert judged(0.5, "\\boxed{\\frac{1}{2}}").reward == 1.0


@pytest.mark.parametrize("text", ["1e999999999", "9" * 401, "1/0", "\\frac{1}{0}", "nan", "inf", "0x10", "1_000", "٣"])
def test_what_is_not_a_plain_number_has_no_exact_value(text: str):
    if text != "٣":
        assert number(text) is None
    else:
        assert number(text) == 3  # digits of other scripts are digits


def test_numbers_are_decided_without_sympy():
    code = (
        "import sys; from prolong.verifiers import math; from prolong.verifiers.api import Task;"
        "assert math.MATH.quick(Task(completion='\\\\boxed{5}', answer={'answer': '6'})).reward == 0;"
        "assert 'sympy' not in sys.modules and 'math_verify' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize("answer", [{}, {"answer": None}, {"answer": ""}, {"answer": " "}, {"answer": [1]}, {"answer": True}])
def test_an_unusable_gold_is_refused(answer: dict):
    with pytest.raises(DataError, match="verifier math"):
        math.MATH.check(answer)


@pytest.mark.parametrize(
    ("completion", "reward"),
    [
        ("the sum is 42", 1.0),
        ("<think>41</think>42", 1.0),
        ("<answer>42</answer> of 50", 1.0),
        ("\\boxed{42} of 50", 1.0),
        ("42 or 43", 0.0),
        ("<think>42</think>", 0.0),
        ("forty-two", 0.0),
    ],
)
def test_number_reads_box_tag_or_last_number(completion: str, reward: float):
    assert math.NUMBER.score(Task(completion=completion, answer={"answer": "42"})).reward == reward


@pytest.mark.parametrize(
    ("completion", "reward", "status"),
    [
        ("the sum is 42", 0.0, "no_answer"),
        ("<answer>42</answer> and 41", 1.0, "ok"),
        ("\\boxed{42} and 41", 1.0, "ok"),
        ("\\boxed{42", 0.0, "no_answer"),
        ("<answer>42", 0.0, "no_answer"),
    ],
)
def test_number_takes_no_bare_number_from_a_text_that_was_cut_off(completion: str, reward: float, status: str):
    score = math.NUMBER.score(Task(completion=completion, answer={"answer": "42"}, cut_off=True))
    assert (score.reward, score.status) == (reward, status)


def test_number_has_no_tolerance_unless_asked():
    near = Task(completion="3.14", answer={"answer": "3.14159"})
    assert math.NUMBER.score(near).reward == 0.0
    assert math.NUMBER.score(Task(completion="3.14", answer={"answer": "3.14159", "tolerance": 0.01})).reward == 1.0


@pytest.mark.parametrize(
    ("gold", "boxed", "reward"), [("0.5", "50\\%", 1.0), ("50", "50\\%", 1.0), ("0.5", "0.5\\%", 0.0), ("18", "0.18\\%", 0.0)]
)
def test_number_reads_a_percent_sign_as_math_does(gold: str, boxed: str, reward: float):
    task = Task(completion=f"\\boxed{{{boxed}}}", answer={"answer": gold})
    assert math.NUMBER.score(task).reward == reward
    assert judged(gold, task.completion).reward == reward


def test_number_refuses_a_gold_that_is_no_number():
    with pytest.raises(DataError, match="verifier number"):
        math.NUMBER.check({"answer": "x+1"})


@pytest.mark.usefixtures("loaded")
def test_a_gold_that_no_algebra_can_read_is_still_matched_by_its_text():
    gold = "\\text{the } \\S 5 \\#"
    assert judged(gold, f"\\boxed{{{gold}}}").reward == 1.0
    assert judged(gold, "\\boxed{east}").reward == 0.0


@pytest.mark.parametrize("hostile", ["9^{9^{9^{9}}}", "((9!)!)!", "10^{999999999}", "5!!!!", "20000000!", "2^{-99^{9^9}}"])
def test_numbers_that_no_machine_holds_are_refused_without_algebra(hostile: str):
    score = math.MATH.quick(Task(completion=f"\\boxed{{{hostile}}}", answer={"answer": "2\\sqrt{3}"}))
    assert score is not None
    assert (score.reward, score.status) == (0.0, "input_rejected")
    same = math.MATH.quick(Task(completion=f"\\boxed{{{hostile}}}", answer={"answer": hostile}))
    assert same is not None
    assert same.reward == 1.0


@pytest.mark.parametrize("harmless", ["2^{10}", "2^{2^{2^{2}}}", "99!", "5!!", "10^{-7}", "x^{2024}", "(3!)^2", "a^{b^{c^d}}"])
def test_large_but_tame_numbers_are_left_to_algebra(harmless: str):
    assert not has_huge_number("1", harmless)


@pytest.mark.usefixtures("loaded")
@pytest.mark.parametrize(
    ("gold", "given", "right"),
    [
        ("\\cos 20^\\circ", "\\sin 70^\\circ", True),
        ("\\sin 30^\\circ", "\\frac12", True),
        ("\\cos 20^\\circ", "\\cos 20", False),
        ("e^{i\\pi/3}", "\\frac12+\\frac{\\sqrt3}{2}i", True),
        ("e^{i\\pi/3}", "\\frac12-\\frac{\\sqrt3}{2}i", False),
        ("2t", "2", False),
        ("2m", "2", False),
        ("\\frac{m}{2}", "0.5 m", True),
        ("10", "10!", False),
        ("12", "1 2", False),
        ("\\frac{\\pi}{10^{20}}", "\\frac{2\\pi}{10^{20}}", False),
        ("2^{2024}-1", "4^{1012}", False),
        ("5\\sqrt{3}\\text{ m}", "5\\sqrt{3} m", True),
    ],
)
def test_traps_of_the_library_are_avoided(gold: str, given: str, right: bool):
    assert judged(gold, f"\\boxed{{{given}}}").reward == float(right)


@pytest.mark.parametrize(
    ("completion", "reward"),
    [
        ("\\boxed{3}", 1.0),
        ("\\boxed{-3}", 1.0),
        ("\\boxed{\\sqrt{9}}", 1.0),
        ("\\boxed{(x+1)^2}", 1.0),
        ("\\boxed{x^2+2x+2}", 0.0),
        ("\\boxed{3.01}", 0.0),
        ("\\boxed{9}", 0.0),
        ("\\boxed{3, -3}", 0.0),
        ("3", 0.0),
    ],
)
def test_any_of_several_stored_answers_is_right_and_nothing_near_them(loaded: None, completion: str, reward: float):
    task = Task(completion=completion, answer={"answer": 3, "aliases": ["-3", "x^2+2x+1"]})
    assert (math.MATH.quick(task) or math.MATH.score(task)).reward == reward


def test_an_answer_in_several_boxes_that_has_spent_the_budget_is_remembered(loaded: None, monkeypatch: pytest.MonkeyPatch):
    def spent(judge: object, probe: object, key: tuple[str, str]) -> None:
        bounds._stalled[key] = None

    monkeypatch.setattr(bounds, "_stalled", type(bounds._stalled)())
    monkeypatch.setattr(math, "within_budget", spent)
    completion, answer = "\\boxed{{\\sqrt{{{}}}+x}} and \\boxed{{\\sqrt{{3}}+y}}", {"answer": "x+\\sqrt{2}, y+\\sqrt{3}"}
    slow, other = (Task(completion=completion.format(number), answer=answer) for number in (2, 5))
    assert math.MATH.quick(slow) is None
    assert math.MATH.score(slow).metrics == {"over_budget": 1.0}
    assert math.MATH.quick(slow) == math.MATH.score(slow)
    assert math.MATH.quick(other) is None


@pytest.mark.parametrize("aliases", ["-3", [3], [""], {"a": "b"}])
def test_aliases_are_texts(aliases: object):
    with pytest.raises(DataError, match="aliases"):
        math.MATH.check({"answer": "3", "aliases": aliases})

from collections.abc import Callable

import pytest
import reasoning_gym
from prolong.bench.puzzle_constants import EVALUATING
from prolong.common.errors import DataError, UserError, VerifierFailure
from prolong.verifiers.api import Task
from prolong.verifiers.logic import reasoning_gym as logic
from prolong.verifiers.logic.reasoning_gym import formulas
from prolong.verifiers.sandbox.launcher import Limits, RunResult, RunStatus

from tests.support.hostile_formulas import INTEGRAL, RIGHT

SPELL = {"dataset": "spell_backward", "entry": {"answer": "tenalp", "metadata": {"word": "planet"}}}
PRODUCT = {"dataset": "polynomial_multiplication", "entry": {"answer": "x**2 - 1", "metadata": {"variables": ["x"]}}}


def reward(completion: str, answer: dict) -> float:
    return logic.REASONING_GYM.score(Task(completion=completion, answer=answer)).reward


def test_partial_credit_is_for_the_letters_before_the_first_mistake():
    assert reward("<think>planet</think><answer>tenalp</answer>", SPELL) == 1.0
    assert reward("<answer>tenalq</answer>", SPELL) == pytest.approx(5 / 6)
    assert reward("<answer></answer>", SPELL) == 0.0


def test_an_answer_outside_its_tags_earns_nothing():
    for text in ("tenalp", "<think><answer>tenalp</answer></think>", "<think><answer>tenalp</answer>", "<answer>tenalp"):
        assert reward(text, SPELL) == 0.0


def test_a_stored_entry_is_scored_as_reasoning_gym_scores_a_fresh_one():
    dataset = reasoning_gym.create_dataset("number_sorting", seed=5, size=5)
    for entry in dataset:
        answer = {"dataset": "number_sorting", "entry": entry}
        logic.REASONING_GYM.probe(answer)
        for given in (entry["answer"], "['1', '2']", "[", "1e999", "[[[[", entry["answer"][:-1]):
            assert reward(f"<answer>{given}</answer>", answer) == dataset.score_answer(given, entry)


def test_only_datasets_that_execute_model_output_need_a_sandbox():
    assert reasoning_gym.factory.DATASETS.keys() >= logic.UNSAFE
    for answer in (INTEGRAL, PRODUCT):
        logic.REASONING_GYM.check(answer)
        assert logic.REASONING_GYM.needs_sandbox(answer)
    assert not logic.REASONING_GYM.needs_sandbox(SPELL)
    assert not logic.REASONING_GYM.needs_sandbox({})


@pytest.mark.parametrize("gold", ["Integral(x, x) + C", None, "", 3.5, "y"])
def test_a_stored_answer_that_is_no_formula_is_refused(gold: object):
    entry = {"answer": gold, "metadata": {"variable": "x", "integrand": "x"}}
    if gold == 3.5:
        logic.REASONING_GYM.check({"dataset": "simple_integration", "entry": entry})
        return
    with pytest.raises(DataError, match="is no formula"):
        logic.REASONING_GYM.check({"dataset": "simple_integration", "entry": entry})


def test_every_scorer_that_calls_eval_is_replaced_or_unsafe():
    assert set(logic.OURS) | logic.UNSAFE >= EVALUATING
    assert not set(logic.OURS) & logic.UNSAFE
    assert (set(logic.OURS) | logic.UNSAFE | set(logic.REFUSED)) <= set(reasoning_gym.factory.DATASETS)


@pytest.mark.parametrize("name", sorted(logic.REFUSED))
def test_datasets_without_a_usable_scorer_are_refused_with_the_reason(name: str):
    with pytest.raises(UserError, match=logic.REFUSED[name]):
        logic.REASONING_GYM.check({"dataset": name, "entry": {"answer": "1"}})


def test_the_refused_scorer_pays_for_a_copied_premise():
    """propositional_logic: if this fails, a later version of Reasoning Gym fixed it, and it can be used."""
    dataset = reasoning_gym.create_dataset("propositional_logic", seed=1, size=30)
    paid = [dataset.score_answer(entry["metadata"]["premises"][0], entry) for entry in dataset]
    assert max(paid) == 1.0


class Box:
    """A sandbox whose calls end as `answers` says for the text that is judged."""

    def __init__(self, answers: Callable[[str], tuple[str, bytes]]) -> None:
        self.answers, self.unsafe, self.calls = answers, False, list[str]()

    def call(self, module: str, function: str, args: list, limits: Limits) -> RunResult:
        assert (module, function) == ("prolong.verifiers.logic.formulas", "judge_formula")
        self.calls.append(args[1])
        status, result = self.answers(args[1])
        return RunResult(status=RunStatus(status), code=0, stdout=b"", stderr=b"why", result=result, seconds=0, cpu_s=0)


@pytest.fixture
def box(monkeypatch: pytest.MonkeyPatch) -> Box:
    made = Box(lambda text: ("ok", b"1.0" if text == RIGHT else b"0.0"))
    monkeypatch.setattr(logic.REASONING_GYM, "_sandbox", made)
    return made


def scored(given: str) -> tuple[float, str]:
    result = logic.REASONING_GYM.score(Task(completion=f"<answer>{given}</answer>", answer=INTEGRAL))
    return result.reward, result.status


def test_formulas_are_judged_in_the_sandbox_and_other_texts_nowhere(box: Box, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(formulas, "judge_formula", None)
    assert scored(RIGHT) == (1.0, "ok")
    assert scored("X") == (0.0, "ok")
    assert scored("__import__('os').getpid()") == (0.0, "ok")
    assert box.calls == [RIGHT, "X"]


def test_a_formula_that_the_sandbox_ends_is_rejected_if_the_stored_answer_passes(box: Box):
    box.answers = lambda text: ("ok", b"1.0") if text == RIGHT else ("timeout", b"")
    assert scored("9**9") == (0.0, "input_rejected")


def test_a_worker_waits_for_a_formula_as_long_as_the_sandbox_lets_it_run(box: Box):
    """Otherwise its deadline ends it first, and a formula that stalls sympy has no verdict, which is better than a 0."""
    logic.REASONING_GYM.report_to(print)
    assert box.on_look is print  # type: ignore[attr-defined]
    assert logic.REASONING_GYM.granted_s(INTEGRAL) == logic.LIMITS.cpu_s
    assert logic.REASONING_GYM.granted_s(SPELL) == 0


@pytest.mark.parametrize("gold", [("timeout", b""), ("error", b""), ("ok", b"0.0"), ("ok", b"")])
def test_if_the_stored_answer_fails_as_well_there_is_no_verdict(box: Box, gold: tuple[str, bytes]):
    box.answers = lambda text: gold if text == RIGHT else ("error", b"")
    with pytest.raises((ValueError, VerifierFailure)):
        scored("X")
    with pytest.raises((ValueError, VerifierFailure)):
        logic.REASONING_GYM.probe(INTEGRAL)


@pytest.mark.parametrize(
    "result", [b"2.0", b"1", b"true", b"0.5", b"-0.5", b'"1.0"', b"[1.0]", b"NaN", b"1.0 1.0", b"", b"\xff", b"1e999"]
)
def test_a_forged_result_is_no_reward(box: Box, result: bytes):
    box.answers = lambda text: ("ok", b"1.0" if text == RIGHT else result)
    assert scored("X") == (0.0, "input_rejected")


def test_a_sandbox_that_fails_once_is_asked_again_and_twice_is_no_verdict(box: Box):
    failures = iter([True, False, True, True])

    def fail(text: str) -> tuple[str, bytes]:
        if next(failures):
            raise VerifierFailure("the launcher is gone")
        return "ok", b"1.0"

    box.answers = fail
    assert scored(RIGHT) == (1.0, "ok")
    with pytest.raises(VerifierFailure, match="gone"):
        scored(RIGHT)


def test_unsafe_verdicts_say_so(box: Box):
    def stamps(given: str) -> dict[str, float]:
        return logic.REASONING_GYM.score(Task(completion=f"<answer>{given}</answer>", answer=INTEGRAL)).metrics

    assert stamps(RIGHT) == {}
    box.unsafe = True
    box.answers = lambda text: ("ok", b"1.0") if text == RIGHT else ("timeout", b"")
    assert stamps(RIGHT) == stamps("9**9") == {"unsafe_code": 1.0}


@pytest.mark.parametrize(
    "answer", [{}, {"dataset": "spell_backward"}, {"dataset": 3, "entry": {"answer": "x"}}, {"dataset": "x", "entry": {}}]
)
def test_a_broken_entry_is_refused(answer: dict):
    with pytest.raises(DataError, match="verifier reasoning_gym"):
        logic.REASONING_GYM.check(answer)


def test_a_very_long_answer_is_not_judged():
    scored = logic.REASONING_GYM.score(Task(completion=f"<answer>{'a' * 100_000}</answer>", answer=SPELL))
    assert (scored.reward, scored.status) == (0.0, "input_rejected")


def test_a_scorer_that_leaves_its_range_has_no_verdict(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(logic, "_library_score", lambda dataset, text, entry: 1.5)
    with pytest.raises(ValueError, match=r"returned 1\.5: expected 0 to 1"):
        logic.judge_puzzle("{}", {"dataset": "graph_color", "entry": {"answer": "x", "metadata": {}}})

import pytest
import reasoning_gym
from prolong.common.errors import DataError, UserError
from prolong.verifiers import logic
from prolong.verifiers.base import Task

SPELL = {"dataset": "spell_backward", "entry": {"answer": "tenalp", "metadata": {"word": "planet"}}}


def reward(completion: str, answer: dict) -> float:
    return logic.score(Task(completion=completion, answer=answer)).reward


def test_partial_credit_is_the_scorers_own():
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
        logic.probe(answer)
        for given in (entry["answer"], "['1', '2']", "[", "1e999", "[[[[", entry["answer"][:-1]):
            assert reward(f"<answer>{given}</answer>", answer) == dataset.score_answer(given, entry)


@pytest.mark.parametrize("name", sorted(logic.EXECUTES_OUTPUT))
def test_datasets_that_execute_model_output_are_refused(name: str):
    assert name in reasoning_gym.factory.DATASETS
    with pytest.raises(UserError, match="executes what the model wrote"):
        logic.check({"dataset": name, "entry": {"answer": "1"}})


@pytest.mark.parametrize(
    "answer", [{}, {"dataset": "spell_backward"}, {"dataset": 3, "entry": {"answer": "x"}}, {"dataset": "x", "entry": {}}]
)
def test_a_broken_entry_is_refused(answer: dict):
    with pytest.raises(DataError, match="verifier reasoning_gym"):
        logic.check(answer)

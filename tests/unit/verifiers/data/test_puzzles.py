import itertools
import json

import pytest
import reasoning_gym
from prolong.common.errors import DataError, UserError
from prolong.verifiers.data import puzzles
from prolong.verifiers.data.puzzles import Entries
from prolong.verifiers.data.solutions import SOLVERS
from prolong.verifiers.logic import reasoning_gym as logic


def test_records_are_complete_different_and_judged_as_stored():
    records = list(Entries("spell_backward", 1, 20, seed=3))
    assert len({record["prompt"] for record in records}) == len({record["uid"] for record in records}) == 20
    for record in records:
        assert json.loads(json.dumps(record)) == record
        assert (record["domain"], record["task"], record["verifier"]) == ("logic", "spell_backward", "reasoning_gym")
        assert record["prompt"].endswith("<answer> and </answer> tags.")
        logic.REASONING_GYM.check(record["answer"])
        assert logic.judge_puzzle(record["answer"]["entry"]["answer"], record["answer"]) == 1.0


def test_levels_make_puzzles_harder():
    def mean_length(level: int) -> float:
        words = [record["answer"]["entry"]["answer"] for record in Entries("spell_backward", level, 30, seed=0)]
        return sum(map(len, words)) / 30

    assert puzzles.levels("spell_backward") == [0, 1, 2, 3, 4]
    assert mean_length(4) > mean_length(0) + 1


def test_levels_whose_settings_the_generator_refuses_are_not_offered():
    assert puzzles.levels("caesar_cipher") == [0, 1]
    assert puzzles.levels("acre") == puzzles.levels("knight_swap") == [0]


def test_unknown_names_and_levels_are_refused_in_a_sentence():
    with pytest.raises(UserError, match="'spel_backward': expected one of ab, acre"):
        Entries("spel_backward", 0, 1, 0)
    with pytest.raises(UserError, match="'propositional_logic': expected one of"):
        puzzles.levels("propositional_logic")
    with pytest.raises(UserError, match="level 5 of caesar_cipher: expected one of 0, 1"):
        Entries("caesar_cipher", 5, 1, 0)


def test_a_generator_that_repeats_itself_is_given_up():
    prompts = []
    with pytest.raises(DataError, match="different usable puzzles were found, 2000 were asked for"):
        prompts.extend(record["prompt"] for record in Entries("coin_flip", 0, 2000, seed=0))
    assert 5 < len(prompts) == len(set(prompts))


def test_an_entry_whose_own_answer_is_wrong_is_left_out(monkeypatch: pytest.MonkeyPatch):
    judged = itertools.count()
    monkeypatch.setattr(logic, "judge_puzzle", lambda text, answer: float(next(judged) % 2))
    entries = Entries("spell_backward", 0, 5, seed=0)
    assert len(list(entries)) == 5
    assert entries.num_refused == 5


@pytest.mark.parametrize("name", sorted(logic.UNSAFE))
def test_integrals_that_were_given_up_are_left_out(name: str):
    level = puzzles.levels(name)[4 if name == "intermediate_integration" else 0]
    entries = Entries(name, level, 3, seed=0)
    for record in entries:
        logic.REASONING_GYM.check(record["answer"])
        assert "Integral" not in record["answer"]["entry"]["answer"]
    assert (entries.num_refused > 0) == (name == "intermediate_integration")


@pytest.mark.parametrize("name", sorted(SOLVERS))
def test_puzzles_that_come_without_an_answer_get_one(name: str):
    for made in reasoning_gym.create_dataset(name, seed=11, size=2):
        assert made["answer"] is None
        entry = puzzles.stored(made)
        assert logic.judge_puzzle(entry["answer"], {"dataset": name, "entry": entry}) == 1.0


def test_a_rush_hour_solution_is_as_short_as_can_be():
    """min_moves of the published boards counts cells and ours counts slides, so it is never larger."""
    for made in reasoning_gym.create_dataset("rush_hour", seed=2, size=3):
        slides = SOLVERS["rush_hour"](made["metadata"]).split()
        assert 0 < len(slides) <= made["metadata"]["min_moves"]

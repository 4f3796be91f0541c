"""The prompts of the real model: answerable, apart from each other, and wrapped as chats by its recipe."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import pytest
from prolong.launch.real.prompts import TASKS, split, word_problem, write_questions
from prolong.launch.recipes import compose
from prolong.verifiers.registry import find


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("prompts")
    write_questions(made, num_train=30, num_heldout=10)
    return made


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_no_question_is_trained_on_and_held_out(folder: Path) -> None:
    train, heldout = lines(folder / "train.jsonl"), lines(folder / "heldout.jsonl")
    questions = [line["prompt"] for line in train + heldout]
    assert len(set(questions)) == len(questions)
    for records, count in ((train, 30), (heldout, 10)):
        assert Counter(f"{line['domain']}/{line['task']}" for line in records) == dict.fromkeys(TASKS, count)


def test_every_answer_is_a_number_that_the_verifier_can_judge(folder: Path) -> None:
    verifier = find("number")
    for line in lines(folder / "train.jsonl") + lines(folder / "heldout.jsonl"):
        verifier.check(line["answer"])
        assert line["verifier"] == "number"


def test_the_same_seed_makes_the_same_problems() -> None:
    assert split("words/one_step", 3, 20, 5) == split("words/one_step", 3, 20, 5)
    assert split("words/one_step", 3, 20, 5) != split("words/one_step", 4, 20, 5)


def test_a_story_has_the_answer_that_its_numbers_give() -> None:
    rng = random.Random(0)
    for _ in range(200):
        question, answer = word_problem(rng)
        first, second = (int(word) for word in question.split() if word.isdigit())
        right = {
            "more": first + second,
            "gives": first - second,
            "boxes": first * second,
            "shares": first // second,
        }
        form = next(word for word in ("gives", "boxes", "shares", "more") if word in question)
        assert int(answer) == right[form], question


def test_the_recipe_gives_the_prompts_as_chats() -> None:
    cfg = compose("smollm2")
    assert all(source.chat and source.system for source in [*cfg.data.train, *cfg.data.heldout])

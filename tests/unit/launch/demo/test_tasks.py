import contextlib
import itertools
import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from prolong.launch.demo import tasks as demo_tasks
from prolong.launch.demo.tokenizer import VOCABULARY, write_tokenizer
from prolong.verifiers.api import Task
from prolong.verifiers.code import CODE
from prolong.verifiers.registry import VERIFIERS
from prolong.verifiers.sandbox.opening import open_sandbox
from tokenizers import Tokenizer

TASKS = sorted(demo_tasks.TASKS)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


@pytest.fixture(scope="module")
def box() -> Iterator[None]:
    """A sandbox that is closed again: tests that look for what a sandbox left behind would find it."""
    with contextlib.closing(open_sandbox()) as sandbox, pytest.MonkeyPatch.context() as patch:
        patch.setattr(CODE, "_sandbox", sandbox)
        yield


def problems(
    task: str, count: int, seed: int = 0, level: demo_tasks.Level = demo_tasks.DEMO_LEVEL
) -> list[demo_tasks.DemoProblem]:
    rng = random.Random(seed)
    return [demo_tasks.TASKS[task](rng, level) for _ in range(count)]


def reward(problem: demo_tasks.DemoProblem, completion: str) -> float:
    verifier, task = VERIFIERS[problem.verifier], Task(completion=completion, answer=problem.answer)
    return (verifier.quick(task) or verifier.score(task)).reward


@pytest.mark.usefixtures("box")
@pytest.mark.parametrize("task", TASKS)
def test_careful_demonstrations_are_right_and_hasty_ones_mostly_wrong(task: str):
    sample = problems(task, 200)
    assert all(reward(problem, problem.careful) == 1.0 for problem in sample)
    hasty = [reward(problem, problem.hasty) == 1.0 for problem in sample]
    assert 0.02 < sum(hasty) / len(hasty) < 0.4
    assert all("<think>" not in problem.hasty for problem in sample)


@pytest.mark.parametrize("task", TASKS)
def test_every_text_survives_the_tokenizer_and_is_short(task: str, tokenizer: Tokenizer):
    for problem in problems(task, 200):
        for text in (problem.prompt, problem.careful, problem.hasty):
            encoded = tokenizer.encode(text)
            assert "<unk>" not in encoded.tokens
            assert tokenizer.decode(encoded.ids) == text
        assert len(tokenizer.encode(problem.prompt).ids) <= 20
        assert len(tokenizer.encode(problem.careful).ids) <= 30


@pytest.mark.parametrize("task", demo_tasks.MATH_AND_LOGIC)
def test_wide_problems_are_right_and_fit_the_context_of_their_bench(task: str, tokenizer: Tokenizer):
    for problem in problems(task, 100, level=demo_tasks.WIDE_LEVEL):
        assert reward(problem, problem.careful) == 1.0
        lengths = [len(tokenizer.encode(text).ids) for text in (problem.prompt, problem.careful)]
        assert lengths[1] < 80
        assert sum(lengths) < 192


@pytest.mark.parametrize("task", TASKS)
def test_training_heldout_and_demonstrations_share_no_question(task: str):
    train, heldout, stream = demo_tasks.split_problems(task, seed=0, num_train=300, num_heldout=64)
    demonstrated = {problem.prompt for problem in itertools.islice(stream, 3000)}
    trained, held = {p.prompt for p in train}, {p.prompt for p in heldout}
    assert (len(trained), len(held)) == (300, 64)
    assert not trained & held
    assert not (trained | held) & demonstrated


@pytest.mark.parametrize("task", TASKS)
def test_a_split_is_its_seeds_alone(task: str):
    def prompts(seed: int) -> list[str]:
        train, heldout, stream = demo_tasks.split_problems(task, seed, 20, 5)
        return [p.prompt for p in [*train, *heldout, *itertools.islice(stream, 20)]]

    assert prompts(3) == prompts(3)
    assert prompts(3) != prompts(4)


def test_prompt_lines_say_everything_that_a_prompt_needs(tmp_path: Path):
    made = {task: problems(task, 3) for task in TASKS}
    demo_tasks.write_prompts(tmp_path / "train.jsonl", made)
    lines = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    assert len({line["uid"] for line in lines}) == len(lines) == 3 * len(TASKS)
    assert {(line["domain"], line["task"]) for line in lines} == {tuple(task.split("/")) for task in TASKS}
    for line in lines:
        VERIFIERS[line["verifier"]].check(line["answer"])


def test_demonstrations_hold_the_careful_share():
    streams = [
        demo_tasks.split_problems(task, 0, 10, 5)[2] for task in TASKS if task != "code/arithmetic"
    ]  # its steps are lines
    texts = [text for _, text in itertools.islice(demo_tasks.demonstrations(streams, "0", 0.3), 2000)]
    assert 0.25 < sum("<think>" in text for text in texts) / 2000 < 0.35


def test_a_program_without_brackets_fails_its_test_and_one_with_brackets_passes():
    for problem in problems("code/arithmetic", 200):
        assert reward(problem, problem.hasty) == float("(" in problem.hasty.splitlines()[-2])


def test_a_list_earns_nothing_unless_it_follows_both_instructions():
    for problem in problems("instructions/bullets", 50):
        count, keywords = (instruction["kwargs"] for instruction in problem.answer["instructions"])
        points = [*keywords["keywords"], *["zzz"] * (count["num_bullets"] - 2)]
        texts = ["\n".join(f"* {point}" for point in chosen) for chosen in (points, [*points, "zzz"], ["zzz", *points[1:]])]
        assert [reward(problem, text) for text in texts] == [1.0, 0.0, 0.0]


def test_keywords_are_three_letters_and_none_is_there_twice():
    words = demo_tasks.THINGS.split()
    assert {len(word) for word in words} == {3}
    assert len(set(words)) == len(words) > 70


def test_the_vocabulary_has_no_double():
    assert len(set(VOCABULARY)) == len(VOCABULARY)


def test_the_sorting_rules_are_reasoning_gyms_own():
    prompt = problems("logic/number_sorting", 1)[0].prompt
    assert prompt.endswith(demo_tasks.TAG_INSTRUCTION)
    assert any(phrase in prompt for phrase in VOCABULARY if phrase.startswith(".0\nPlease"))

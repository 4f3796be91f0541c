import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from prolong.common.config.sections import SourceConfig
from prolong.common.data.prompts import load_prompts
from prolong.common.errors import UserError
from prolong.common.tokenizer import Tokenizer
from prolong.launch import bootstrap as command
from prolong.launch.demo import bootstrap
from prolong.launch.demo import tasks as demo_tasks
from prolong.verifiers.registry import check_prompt


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    bootstrap.fill_demo_folder(folder)
    return folder


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_shipped_prompts_are_those_that_the_tasks_make(demo: Path):
    made = {
        task: demo_tasks.split_problems(task, 0, bootstrap.NUM_TRAIN, bootstrap.NUM_HELDOUT)[:2] for task in demo_tasks.TASKS
    }
    for index, split in enumerate(["train", "heldout"]):
        expected = {problem.prompt for problems in made.values() for problem in problems[index]}
        assert {line["prompt"] for line in lines(demo / f"{split}.jsonl")} == expected


def test_shipped_heldout_questions_are_not_trained_on(demo: Path):
    train, heldout = lines(demo / "train.jsonl"), lines(demo / "heldout.jsonl")
    assert not {line["prompt"] for line in train} & {line["prompt"] for line in heldout}
    assert Counter(f"{line['domain']}/{line['task']}" for line in heldout) == dict.fromkeys(
        demo_tasks.TASKS, bootstrap.NUM_HELDOUT
    )


def test_shipped_prompts_load_and_can_be_judged(demo: Path):
    tokenizer = Tokenizer.load(str(demo))
    prompts = load_prompts(SourceConfig(file=str(demo / "heldout.jsonl")), tokenizer, 128, 48)
    for prompt in prompts:
        check_prompt(prompt)
    assert len(prompts) == len(demo_tasks.TASKS) * bootstrap.NUM_HELDOUT
    assert tokenizer.eos_ids == (1,)


def test_what_is_shipped_is_small():
    sizes = {path.name: path.stat().st_size for path in bootstrap.SHIPPED.iterdir()}
    assert sizes["model.safetensors"] <= 3_000_000
    assert sum(sizes.values()) - sizes["model.safetensors"] < 1_000_000


def test_unpacking_imports_neither_torch_nor_reasoning_gym(tmp_path: Path):
    code = (
        f"import sys; from prolong.launch import bootstrap; bootstrap.main(['--out', {str(tmp_path / 'a')!r}]);"
        "slow = {'torch', 'transformers', 'reasoning_gym', 'numpy'} & set(sys.modules); assert not slow, slow"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_seed_without_training_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="needs --train"):
        command.main(["--out", str(tmp_path / "a"), "--seed", "3"])


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--file", "a.whl"], "--file a.whl belongs to --model smollm2"),
        (["--model", "smollm2", "--train"], "--train and --seed belong to --model demo"),
    ],
)
def test_an_option_of_the_other_model_is_refused(tmp_path: Path, words: list[str], sentence: str):
    with pytest.raises(UserError, match=sentence):
        command.main(["--out", str(tmp_path / "a"), *words])


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot fill"):
        bootstrap.fill_demo_folder(tmp_path / "file" / "demo")

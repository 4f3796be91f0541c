"""The verifier of docs/extending.md in a copy of the product: a prompt file is checked with it, and completions are judged."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.extension import MAX_FILES, diff_of, extended_tree, touched_files

CLI = [sys.executable, "-m", "prolong.launch.cli"]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return extended_tree("A verifier", tmp_path_factory.mktemp("tree"))


def run(environment: dict[str, str], folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [*CLI, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False)


def test_a_verifier_takes_its_file_the_registry_and_the_page():
    assert touched_files(diff_of("A verifier")) == ["verifiers/exact.py", "verifiers/registry.py", "docs/verifiers.md"]
    assert MAX_FILES == 3


def test_its_gold_earns_1_and_a_bad_answer_is_named(environment: dict[str, str], tmp_path: Path):
    good = {"prompt": "The capital of France?", "domain": "d", "task": "t", "verifier": "exact", "answer": {"text": "Paris"}}
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(json.dumps(good) + "\n")
    done = run(environment, tmp_path, "data", "check", str(prompts))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "gold answers: 1 of 1 earn 1 from their own verifier" in done.stdout
    prompts.write_text(json.dumps(good | {"answer": {"text": 5}}) + "\n")
    done = run(environment, tmp_path, "data", "check", str(prompts))
    assert done.returncode == 1
    assert "verifier exact: got answer {'text': 5}; expected" in done.stdout + done.stderr


def test_it_judges_in_a_worker(environment: dict[str, str], tmp_path: Path):
    cases = tmp_path / "cases.jsonl"
    texts = ("<think>Lyon?</think> Paris", "Lyon")
    lines = [{"verifier": "exact", "answer": {"text": "Paris"}, "completion": text} for text in texts]
    cases.write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = run(environment, tmp_path, "verifier", "--try", str(cases))
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["reward"] for line in done.stdout.splitlines()] == [1.0, 0.0]

"""`prolong data check` with real verifier processes, and `prolong data show` as a process."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from prolong.launch.data import command as data

SAMPLES = Path(__file__).parents[1] / "data"
MATH = {"domain": "math", "task": "sum", "verifier": "math"}


def prompts(folder: Path, *records: dict[str, Any]) -> Path:
    path = folder / "prompts.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_gold_answers_that_do_not_earn_1_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    spelled = {"dataset": "spell_backward", "entry": {"answer": "tenalp", "metadata": {"word": "planet"}}}
    sorted_wrong = {"dataset": "number_sorting", "entry": {"answer": "['2', '1']", "metadata": {"direction": "ascending"}}}
    sudoku_broken = {"dataset": "sudoku", "entry": {"answer": "1", "metadata": {}}}
    logic = {"domain": "logic", "task": "puzzle", "verifier": "reasoning_gym"}
    path = prompts(
        tmp_path,
        {"prompt": "a", "answer": "2\\sqrt{3}"} | MATH,
        {"prompt": "b", "answer": "7", "gold": "\\boxed{8}"} | MATH,
        {"prompt": "c", "answer": spelled} | logic,
        {"prompt": "d", "answer": sudoku_broken} | logic,
        {"prompt": "e", "answer": sorted_wrong, "gold": "<answer>['1', '2']</answer>"} | logic,
    )
    assert data.main(["check", str(path), "--workers", "1"]) == 1
    captured = capsys.readouterr()
    assert "2 of 5 earn 1" in captured.out
    assert "3 gold answers do not earn 1" in captured.err
    assert "line 2: math: reward 0 (ok) for '\\\\boxed{8}'" in captured.err
    assert "line 4: reasoning_gym: no reward (crash)" in captured.err
    assert "line 5: reasoning_gym: reward 0 (ok)" in captured.err


def test_converted_samples_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    target = tmp_path / "deepscaler.jsonl"
    assert data.main(["convert", "--format", "deepscaler", str(SAMPLES / "deepscaler.jsonl"), str(target)]) == 0
    assert data.main(["check", str(target), "--workers", "1"]) == 0
    assert "3 of 3 earn 1" in capsys.readouterr().out


def test_a_model_counts_its_own_tokens(tmp_path: Path, demo_model: Path, capsys: pytest.CaptureFixture[str]):
    path = prompts(tmp_path, {"prompt": "What is 347+585? Put the answer in \\boxed{}.", "answer": "932"} | MATH)
    assert data.main(["check", str(path), "--workers", "1", "--model", str(demo_model)]) == 0
    out = capsys.readouterr().out
    assert "prompt length in tokens: least 9" in out


def test_the_command_shows_what_the_model_reads(demo_model: Path):
    """Through the command line, where standard output is no terminal and cannot write every character."""
    command = [sys.executable, "-m", "prolong.launch.cli", "data", "show", "--recipe", "demo", "--count", "1"]
    settings = [f"model.path={demo_model}", f"data.train=[{{file: {demo_model}/train.jsonl}}]", "data.heldout=[]"]
    made = subprocess.run(
        [*command, *settings],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
        check=False,
    )
    assert (made.returncode, made.stderr) == (0, "")
    assert f"data.train: {demo_model}/train.jsonl" in made.stdout
    assert "line 1, math/addition/train/0, math/addition: bare text" in made.stdout
    assert "\n  \\u2502 What is " in made.stdout

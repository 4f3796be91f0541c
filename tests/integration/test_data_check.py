"""`prolong data check` with real verifier processes, and `prolong data show` as a process."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from prolong.common.data.records import read_records
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
        timeout=200,
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
        check=False,
    )
    assert (made.returncode, made.stderr) == (0, "")
    assert f"data.train: {demo_model}/train.jsonl" in made.stdout
    assert "line 1, math/addition/train/0, math/addition: bare text" in made.stdout
    assert "\n  \\u2502 What is " in made.stdout


def test_the_answer_is_tried_in_the_form_that_the_prompt_asks_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    hashes = 'How many? Output the final answer after "####".'
    path = prompts(
        tmp_path,
        {"prompt": hashes, "answer": "42"} | MATH,
        {"prompt": hashes, "answer": "42"} | MATH | {"verifier": "number"},
        {"prompt": "Put the final answer in \\boxed{}.", "answer": "42"} | MATH,
        {"prompt": "Put it in <answer> tags, inside a \\boxed{}.", "answer": "42"} | MATH,
        {"prompt": "How far? Answer in \\boxed{}.", "answer": {"answer": "4.9", "unit": "m"}} | MATH | {"verifier": "stem"},
        {"prompt": "How many?", "answer": "42"} | MATH,
    )
    assert data.main(["check", str(path), "--workers", "1"]) == 1
    captured = capsys.readouterr()
    assert "5 of 6 earn 1" in captured.out
    assert "1 prompts do not say where the answer goes, and their verifier reads \\boxed{...}: lines 6" in captured.out
    assert "line 1: math: reward 0 (no_answer) for '#### 42'" in captured.err
    assert "(the prompt asks for #### ..., its verifier reads \\boxed{...})" in captured.err


def test_a_conversion_keeps_what_is_proved_and_counts_the_rest(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    tests = json.dumps({"inputs": ["1 2\n", "3 4\n"], "outputs": ["3\n", "7\n"]})
    add, wrong = "a, b = map(int, input().split())\nprint(a + b)", "print(3)"
    apps = {"question": "Add two numbers.", "starter_code": "", "input_output": tests, "difficulty": "easy"}
    source = tmp_path / "mixed.json"
    records = [
        {"question": "How many?", "answer": "6*7\n#### 42"},
        apps | {"solutions": json.dumps([wrong, add])},
        apps | {"solutions": json.dumps([wrong])},
        apps | {"solutions": ""},
        {"problem": "Prove it.", "answer": "proof"},
        apps | {"solutions": json.dumps([add]), "input_output": json.dumps({"inputs": ["1"], "outputs": [""]})},
    ]
    source.write_text(json.dumps(records))
    target = tmp_path / "out.parquet"
    assert data.main(["convert", "--format", "deepscaler", "--workers", "1", str(source), str(target)]) == 1
    captured = capsys.readouterr()
    assert "3 prompts, 3 records left out" in captured.out
    assert "2  are no deepscaler: their columns are those of the shape APPS" in captured.out
    assert "1  not proved: no reference solution in the record" in captured.out
    assert "1  left out: the reference solution does not earn 1 (line 3)" in captured.out
    assert "1  left out: it asks for a proof (line 5)" in captured.out
    assert "1  left out: a program that does nothing earns too much (line 6)" in captured.out
    assert "line 3: the reference solution does not earn 1: code: reward 0.5" in captured.err
    made = {number: record for number, record in read_records(target) if isinstance(record, dict)}
    assert made[2]["gold"] == f"```python\n{add}\n```"
    assert made[3]["gold"] is None
    assert data.main(["check", str(target), "--workers", "1"]) == 0


def test_the_first_records_of_a_source_can_be_proved_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    source = tmp_path / "in.jsonl"
    source.write_text("".join(json.dumps({"problem": f"{n}+1?", "answer": n + 1}) + "\n" for n in range(200)))
    assert data.main(["convert", "--prove", "3", "--workers", "1", str(source), str(tmp_path / "out.jsonl")]) == 0
    out = capsys.readouterr().out
    assert "200  deepscaler: shape problem, verifier math; 3 proved" in out
    assert "197  not proved: not asked for" in out


def test_a_conversion_that_is_ended_leaves_no_file(tmp_path: Path):
    source = tmp_path / "in.jsonl"
    source.write_text("".join(json.dumps({"problem": f"{n}+1?", "answer": n + 1}) + "\n" for n in range(100_000)))
    command = [sys.executable, "-m", "prolong.launch.cli", "data", "convert", "--workers", "1"]
    with subprocess.Popen([*command, str(source), str(tmp_path / "out.jsonl")], stderr=subprocess.PIPE, text=True) as running:
        assert running.stderr
        assert "left out" in running.stderr.readline()  # its first line of progress: it is under way
        running.terminate()
        _, said = running.communicate(timeout=200)
    assert running.returncode == 130
    assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == [source]

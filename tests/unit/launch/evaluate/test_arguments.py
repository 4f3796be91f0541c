"""The command line of `prolong evaluate`: the paper's sampling unless told otherwise, and no mistake goes unnoticed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from prolong.launch.evaluate.arguments import parse_evaluation


def test_the_defaults_are_those_of_the_paper() -> None:
    wanted = parse_evaluation(["models/a", "--data", "data/math500.jsonl"])
    assert (wanted.n, wanted.temperature, wanted.top_p, wanted.max_tokens) == (16, 0.6, 0.95, 32768)
    assert wanted.ks == [1, 2, 4, 8, 16]
    assert wanted.out == Path("evaluations/math500")


def test_settings_may_stand_anywhere() -> None:
    words = ["a", "actor.engine=transformers", "b", "--data", "x.jsonl", "y.jsonl", "verifiers.own.mine=m:f", "--n", "6"]
    wanted = parse_evaluation(words)
    assert wanted.models == ["a", "b"]
    assert wanted.data == [Path("x.jsonl"), Path("y.jsonl")]
    assert wanted.overrides == ["actor.engine=transformers", "verifiers.own.mine=m:f"]
    assert wanted.ks == [1, 2, 4, 6]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--temperature", "0"], "greedy rollouts are all alike; give --n 1"),
        (["--temperature", "inf"], "--temperature of 0 or more"),
        (["--top-p", "1.5"], r"--top-p in \(0, 1\]"),
        (["--n", "4", "--k", "8"], "need an n of at least k"),
        (["--n", "0"], "0: expected 1 or more"),
        (["--part", "4/4"], "4/4: expected I/N, such as 0/4"),
    ],
)
def test_settings_that_cannot_be_are_refused(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_evaluation(["a", "--data", "x.jsonl", *words])
    assert re.search(message, capsys.readouterr().err)


def test_without_data_the_prompts_are_those_of_the_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    wanted = parse_evaluation(["runs/mine", "--recipe", "runs/mine/config.yaml"])
    assert (wanted.data, wanted.out) == ([], Path("evaluations/mine"))
    with pytest.raises(SystemExit):
        parse_evaluation(["runs/mine"])
    assert "no prompts: give --data FILE" in capsys.readouterr().err


def test_a_system_message_makes_chats() -> None:
    assert parse_evaluation(["a", "--data", "x.jsonl", "--system", "Be brief."]).chat

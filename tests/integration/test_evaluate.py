"""`prolong evaluate` with a real engine: killed and continued, and two models in one table."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from prolong.buffer.journal.journal import read_journal
from prolong.common.errors import JournalError
from prolong.launch.evaluate.arguments import parse_evaluation
from prolong.launch.evaluate.command import evaluate_models

from tests.support.runs import CLI, engines, living, wait_until
from tests.support.tiny_model import make_tiny_model

pytestmark = pytest.mark.timeout(600)
N, PROMPTS = 6, 24
SETTINGS = ["--n", str(N), "--max-tokens", "24", "--temperature", "1", "--top-p", "1", "actor.engine=transformers"]


def held_out(folder: Path) -> Path:
    """Sums that a random model solves now and then: any completion with an even last digit is right."""
    record = {"domain": "math", "task": "sum", "verifier": "number", "answer": {"answer": "4", "tolerance": 3}}
    lines = [json.dumps({**record, "prompt": f"{index}+4=", "uid": f"sum/{index}"}) for index in range(PROMPTS)]
    file = folder / "sums.jsonl"
    file.write_text("\n".join(lines) + "\n")
    return file


def recorded(folder: Path) -> dict[int, bytes]:
    """The token ids of every recorded rollout."""
    try:
        journal = read_journal(folder)
    except JournalError:
        return {}
    try:
        return {ordinal: bytes(journal.group(ordinal).rollouts[0].token_ids) for ordinal in journal.groups()}
    finally:
        journal.close()


def test_an_evaluation_that_was_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    model, out = make_tiny_model(tmp_path / "model", tied=True), tmp_path / "out"
    words = [str(model), "--data", str(held_out(tmp_path)), "--out", str(out), *SETTINGS]
    # one at a time, so that it lasts
    with subprocess.Popen([*CLI, "evaluate", *words, "actor.capacity=1"], stderr=subprocess.DEVNULL) as process:
        try:
            # or its end, which the assertion below finds
            wait_until(
                "three rollouts", lambda: len(recorded(out / "model" / "journal")) >= 3 or process.poll() is not None, 240
            )
        finally:
            process.kill()
    kept = recorded(out / "model" / "journal")
    assert 3 <= len(kept) < N * PROMPTS, "it ended before it was killed"
    assert evaluate_models(parse_evaluation([*words, "actor.capacity=16"])) == 0
    complete = recorded(out / "model" / "journal")
    assert sorted(complete) == list(range(N * PROMPTS))
    assert {ordinal: complete[ordinal] for ordinal in kept} == kept
    # nothing is left to sample: no engine starts, and the result is the same
    before = (out / "evaluation.json").read_text()
    assert evaluate_models(parse_evaluation(words)) == 0
    assert (out / "evaluation.json").read_text() == before


@contextmanager
def evaluating(words: list[str]) -> Iterator[subprocess.Popen[str]]:
    """`prolong evaluate` in a process, which is killed with its children if the block leaves any."""
    command = [*CLI, "evaluate", *words]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            for left in [*psutil.Process(process.pid).children(recursive=True)] if process.poll() is None else []:
                with suppress(psutil.NoSuchProcess):
                    left.kill()
            process.kill()


def engine_of(process: subprocess.Popen[str]) -> psutil.Process | None:
    return next(iter(engines(of=process.pid)), None) if process.poll() is None else None


def end_of(process: subprocess.Popen[str], engine: psutil.Process) -> str:
    """What it said, once it has ended with an error and nothing of it is left."""
    helpers = psutil.Process(process.pid).children(recursive=True)
    _, said = process.communicate(timeout=240)
    assert process.returncode == 1, said
    wait_until("the end of all its processes", lambda: not living([engine, *helpers]), 60)
    return said


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_engine_that_hangs_ends_the_evaluation_and_what_it_sampled_is_kept(tmp_path: Path) -> None:
    """Its process is stopped: neither a step nor an answer comes, and no signal but SIGKILL reaches it."""
    model, out = make_tiny_model(tmp_path / "model", tied=True), tmp_path / "out"
    words = [str(model), "--data", str(held_out(tmp_path)), "--out", str(out), *SETTINGS, "actor.engine=vllm", "--n", "500"]
    with evaluating([*words, "actor.capacity=1", "buffer.lease_s=5"]) as process:
        wait_until("rollouts", lambda: len(recorded(out / "model" / "journal")) >= 3 or process.poll() is not None, 240)
        engine = engine_of(process)
        assert engine is not None, "it ended before its engine was stopped"
        engine.suspend()
        said = end_of(process, engine)
    assert "the engine hangs: no step for 5 s" in said, said
    assert "give the command again for the rest" in said
    assert 3 <= len(recorded(out / "model" / "journal")) < 500 * PROMPTS
    assert not (out / "evaluation.json").exists()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_engine_that_hangs_while_it_starts_ends_the_evaluation(tmp_path: Path) -> None:
    """vLLM waits for its process without end, and holds the event loop up; here the alarm of the deadline comes at once."""
    model, out = make_tiny_model(tmp_path / "model", tied=True), tmp_path / "out"
    words = [str(model), "--data", str(held_out(tmp_path)), "--out", str(out), *SETTINGS, "actor.engine=vllm"]
    with evaluating([*words, "launch.first_group_s=200"]) as process:
        engine = wait_until("its engine", lambda: engine_of(process) or process.poll() is not None, 240)
        assert isinstance(engine, psutil.Process), "it ended before its engine was stopped"
        engine.suspend()
        process.send_signal(signal.SIGALRM)
        said = end_of(process, engine)
    assert "was not ready after 200 s: expected within launch.first_group_s" in said, said


def test_two_models_stand_in_one_table_with_their_difference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both are sampled by one engine, and the second one from its own weights: the other seed answers otherwise."""
    models = [str(make_tiny_model(tmp_path / f"model-{seed}", tied=True, seed=seed)) for seed in (0, 1)]
    words = [*models, "--data", str(held_out(tmp_path)), "--out", str(tmp_path / "out"), *SETTINGS]
    assert evaluate_models(parse_evaluation(words)) == 0
    printed = capsys.readouterr().out
    assert "gain: mean@6 less that of model-0 on the same prompts" in printed
    first, second = (recorded(tmp_path / "out" / name / "journal") for name in ("model-0", "model-1"))
    assert first.keys() == second.keys()
    assert first != second
    read = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    values = [model["scores"][0]["reward"]["value"] for model in read["models"]]
    assert read["models"][1]["differences"]["math"]["value"] == pytest.approx(values[1] - values[0])
    assert 0 < values[0] < 1
    # alone, the second model samples the same tokens
    alone = [models[1], "--data", str(held_out(tmp_path)), "--out", str(tmp_path / "alone"), *SETTINGS]
    assert evaluate_models(parse_evaluation(alone)) == 0
    assert recorded(tmp_path / "alone" / "model-1" / "journal") == second

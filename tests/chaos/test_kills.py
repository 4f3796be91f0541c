"""`kill -9` and SIGINT in the middle of a supervised run: it recovers, it ends well, nothing is left running."""

import os
import signal
import time
from pathlib import Path

import pytest

from tests.support.runs import ON_VLLM, SMALL, Run, assert_balanced
from tests.support.storm import children

STEPS = 12


@pytest.fixture
def run(tmp_path: Path, demo_model: Path):
    overrides = [*SMALL, f"run.steps={STEPS}", f"model.path={demo_model}", "buffer.address=tcp://127.0.0.1:0"]
    overrides += [f"data.train=[{{file: {demo_model}/train.jsonl}}]", f"data.heldout=[{{file: {demo_model}/heldout.jsonl}}]"]
    run = Run(tmp_path, "kills", [*overrides, "buffer.silence_s=3"])
    yield run
    run.kill_all()


@pytest.mark.timeout(300)
def test_an_actor_whose_vllm_is_killed_is_restarted_and_its_tickets_are_reissued(run: Run) -> None:
    """The engine process takes its actor with it. This is also the run of the demo on vLLM from its start to its end."""
    run.overrides.append(ON_VLLM)
    train = run.start("train")
    run.wait_for_step(3)
    (actor,) = run.find("actor")
    (engine,) = children(actor, "EngineCore")
    engine.kill()
    assert run.ended(train, 200) == 0, run.output()
    summary = run.summary()
    assert_balanced(summary, STEPS, batch_groups=4)
    assert summary["staleness_max"] <= 2
    assert not run.leftovers()


@pytest.mark.timeout(300)
def test_sigint_stops_everything_within_ten_seconds_and_the_printed_command_resumes(run: Run) -> None:
    train = run.start("train")
    run.wait_for_step(3)
    asked = time.monotonic()
    os.kill(train.pid, signal.SIGINT)
    code = run.ended(train, 20)
    assert time.monotonic() - asked < 10, run.output()
    assert code == 130
    assert not run.leftovers()
    assert "prolong train" in run.output()
    again = run.start("train")
    assert run.ended(again, 200) == 0, run.output()
    assert [record["step"] for record in run.metrics()] == list(range(1, STEPS + 1))
    assert_balanced(run.summary(), STEPS, batch_groups=4)

"""`kill -9` and SIGINT in the middle of a supervised run: it recovers, it ends well, nothing is left running."""

import os
import signal
from pathlib import Path

import psutil
import pytest

from tests.support.runs import ON_VLLM, SMALL, Run, assert_balanced
from tests.support.storm import children

STEPS = 12
SOON_S = 90.0  # for what happens at once on a machine that is not busy


@pytest.fixture
def run(tmp_path: Path, demo_model: Path):
    overrides = [*SMALL, f"run.steps={STEPS}", f"model.path={demo_model}", "buffer.address=tcp://127.0.0.1:0"]
    overrides += [f"data.train=[{{file: {demo_model}/train.jsonl}}]", f"data.heldout=[{{file: {demo_model}/heldout.jsonl}}]"]
    run = Run(tmp_path, "kills", [*overrides, "buffer.silence_s=3"])
    yield run
    run.kill_all()


@pytest.mark.timeout(900)
def test_an_actor_whose_vllm_is_killed_is_restarted_and_its_tickets_are_reissued(run: Run) -> None:
    """The engine process takes its actor with it. This is also the run of the demo on vLLM from its start to its end."""
    run.overrides.append(ON_VLLM)
    train = run.start("train")
    run.wait_for_step(3)

    # a process that is just being started may still look like the one that starts it
    def engines() -> list[psutil.Process]:
        found = [engine for actor in run.find("actor") for engine in children(actor, "EngineCore")]
        return found if len(found) == 1 else []

    run.wait("the actor's engine", engines, SOON_S)[0].kill()
    assert run.ended(train, 500) == 0, run.output()
    summary = run.summary()
    assert_balanced(summary, STEPS, batch_groups=4)
    assert summary["staleness_max"] <= 2
    run.wait("nothing to be left running", lambda: not run.leftovers(), SOON_S)


@pytest.mark.timeout(900)
def test_sigint_stops_everything_and_the_printed_command_resumes(run: Run) -> None:
    train = run.start("train")
    run.wait_for_step(3)
    os.kill(train.pid, signal.SIGINT)
    assert run.ended(train, SOON_S) == 130, run.output()
    run.wait("nothing to be left running", lambda: not run.leftovers(), SOON_S)
    assert "prolong train" in run.output()
    again = run.start("train")
    assert run.ended(again, 500) == 0, run.output()
    assert [record["step"] for record in run.metrics()] == list(range(1, STEPS + 1))
    assert_balanced(run.summary(), STEPS, batch_groups=4)

"""Every example runs as its page says, on the demo's model."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(900)
ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
SMALL = ["actor.engine=transformers", "buffer.batch_groups=4", "sampling.n=4"]
PROLONG = [sys.executable, "-m", "prolong.launch.cli"]


def run(*command: str, folder: Path, timeout_s: float = 200.0) -> str:
    """The output of a command in `folder`; it must succeed."""
    env = {**os.environ, "PYTHONPATH": "examples/own_reward", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=timeout_s, check=False)
    assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, demo_model: Path) -> Path:
    """A place like the checkout's root: the examples, the demo's model, and prompts made by the example of that."""
    folder = tmp_path_factory.mktemp("examples")
    shutil.copytree(EXAMPLES, folder / "examples")
    shutil.copytree(demo_model, folder / "models" / "demo")
    run(sys.executable, "examples/own_data/make_prompts.py", "examples/own_reward/prompts.jsonl", folder=folder)
    return folder


# as a notebook's cell: inside of a running event loop
CELLS = """
import asyncio, runpy, sys
async def cells():
    runpy.run_path(sys.argv[0], run_name="__main__")
sys.argv = sys.argv[1:]
asyncio.run(cells())
"""


def test_the_cells_of_a_notebook_train_with_a_function_that_is_defined_there(folder: Path) -> None:
    script = ["examples/train_from_python.py", "--steps", "2", "buffer.address=tcp://127.0.0.1:0", *SMALL]
    printed = run(sys.executable, "-c", CELLS, *script, folder=folder, timeout_s=400)
    assert "step 2/2" in printed
    assert "mean reward" in printed
    assert re.search(r"'What is .* earned (0.0|0.5|1.0) \(sampled by versions \[\(\d", printed)
    records = [json.loads(line) for line in (folder / "runs/from-python/metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [1, 2]
    assert all(0.0 <= record["reward/math/sums"] <= 1.0 for record in records)


@pytest.fixture(scope="module")
def trained(folder: Path) -> Path:
    """The folder of a short run with the reward of the example."""
    recipe = ["--recipe", str(folder / "examples/own_reward/recipe.yaml")]
    settings = ["run.name=mine", "run.steps=3", "buffer.address=tcp://127.0.0.1:0", "buffer.keep_history=true"]
    run(*PROLONG, "train", *recipe, *settings, *SMALL, "checkpoint.every=3", folder=folder, timeout_s=400)
    return folder / "runs" / "mine"


def test_the_reward_function_is_tried_on_a_file(folder: Path) -> None:
    cases = "examples/own_reward/cases.jsonl"
    printed = run(*PROLONG, "verifier", "--try", cases, "verifiers.own.near_miss=rewards:near_miss", folder=folder)
    assert [json.loads(line)["reward"] for line in printed.splitlines()] == [1.0, 0.5, 0.0]


def test_the_prompts_pass_the_check_with_our_verifier_and_with_math(folder: Path) -> None:
    own = "verifiers.own.near_miss=rewards:near_miss"
    printed = run(*PROLONG, "data", "check", "examples/own_reward/prompts.jsonl", own, "model=models/demo", folder=folder)
    assert "200" in printed
    run(sys.executable, "examples/own_data/make_prompts.py", "math.jsonl", "--verifier", "math", folder=folder)
    printed = run(*PROLONG, "data", "check", "math.jsonl", "model=models/demo", folder=folder)
    assert "200" in printed


def test_a_run_learns_from_the_reward_function(trained: Path) -> None:
    records = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [1, 2, 3]
    assert all(0.0 <= record["reward/math/sums"] <= 1.0 for record in records)


def test_the_cells_of_a_notebook_read_that_run(trained: Path, tmp_path: Path) -> None:
    picture = tmp_path / "curve.png"
    printed = run(sys.executable, str(EXAMPLES / "look_at_a_run.py"), str(trained), "--out", str(picture), folder=tmp_path)
    assert "the batch of version 2: 4 groups of 4 rollouts" in printed
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_ticket_of_that_run_is_followed(trained: Path, tmp_path: Path) -> None:
    printed = run(sys.executable, str(EXAMPLES / "follow_a_ticket.py"), str(trained), folder=tmp_path)
    assert "states: issued -> leased -> stored -> batched" in printed
    assert "staleness" in printed


def test_a_loss_of_our_own_is_compared_on_that_run(folder: Path, trained: Path) -> None:
    printed = run(sys.executable, "examples/own_loss.py", str(trained), "--steps", "2", folder=folder, timeout_s=280)
    table = [line.split() for line in printed.splitlines()[1:]]
    losses = {(step, name): (float(default), float(own)) for step, name, default, own in table}
    default, own = losses["1", "learner/grad_norm"]
    assert default != own
    assert losses.keys() == {(step, name) for step in ("1", "2") for _, name in losses}

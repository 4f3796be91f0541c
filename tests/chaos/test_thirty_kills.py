"""A storm over one run: `kill -9` and SIGSTOP of buffer, learner, actor and verifiers, again and again. It ends like a run
without faults: every step once, ledger balanced, bound kept, as good a policy, and its history replays to the same bits.

`make soak` (PROLONG_SOAK=1) runs vLLM, strikes thirty times, vLLM's engine process included, and compares the curve with that
of an undisturbed run. In the short form the engine is transformers; test_kills.py kills vLLM's process.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from tests.support.runs import CLI, ON_VLLM, SMALL, Run, assert_balanced
from tests.support.storm import ENGINE, VICTIMS, Storm, blows, restarts

SOAK = bool(os.environ.get("PROLONG_SOAK"))
SEED = int(os.environ.get("PROLONG_SEED", "0"))
ROUNDS, STEPS, LONGEST_S, BATCH = (3, 75, 15.0, 16) if SOAK else (1, 30, 5.0, 4)
ETA = 2
SILENCE_S = 3.0
SETTINGS = ["buffer.keep_history=true", f"buffer.silence_s={SILENCE_S}", f"run.steps={STEPS}", "run.seed=3"]
SETTINGS += ["launch.max_restarts=1000", "weights.timeout_s=20", f"buffer.eta={ETA}", "buffer.address=tcp://127.0.0.1:0"]
if SOAK:
    SETTINGS += ["checkpoint.every=5", ON_VLLM]
    STRUCK = (*VICTIMS, ENGINE)
else:
    SETTINGS += [*SMALL, "checkpoint.every=3"]
    STRUCK = VICTIMS
HARM = 0.05  # of a pass rate


def make_run(root: Path, name: str, model: Path) -> Run:
    data = [f"data.train=[{{file: {model}/train.jsonl}}]", f"data.heldout=[{{file: {model}/heldout.jsonl}}]"]
    return Run(root, name, [*SETTINGS, f"model.path={model}", *data])


def verdict_of(run: Run, *command: str) -> dict[str, Any]:
    """What `prolong COMMAND RUN --json` found, with exit code 0."""
    done = subprocess.run([*CLI, *command, str(run.folder), "--json"], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def check_books(run: Run) -> None:
    """Every step once and in bounds, every ticket accounted for, nothing left running."""
    records, summary = run.metrics(), run.summary()
    assert [record["step"] for record in records] == list(range(1, STEPS + 1))
    assert_balanced(summary, STEPS, batch_groups=BATCH)
    assert summary["ledger"]["stored"] == 0, summary["ledger"]
    assert summary["staleness_max"] <= ETA
    assert max(record["buffer/staleness_max"] for record in records) <= ETA
    assert verdict_of(run, "journal", "check")["num_findings"] == 0
    run.wait("nothing to be left running", lambda: not run.leftovers(), 90)


def check_replay(run: Run) -> dict[str, str]:
    """The learner again on the recorded batches, without a fault: the same numbers, the same files."""
    found = verdict_of(run, "replay")
    assert found["same"], found
    assert (found["start"], found["until"], found["records"]) == (0, STEPS, STEPS)
    assert found["checkpoints"][-1] == STEPS
    return found["sha256"]


def curve(run: Run) -> list[float]:
    """Held-out pass rates at T = 1, in order of steps."""
    name = "validation/sampled/mean"
    return [record[name] for record in run.metrics() if name in record] + [run.summary()["after"]["sampled"]["mean"]]


def check_learning(stormy: Run, model: Path) -> None:
    """As good as a run of the same settings that nobody touched."""
    calm = make_run(stormy.root.parent / "calm", "calm", model)
    calm.root.mkdir()
    try:
        assert calm.ended(calm.start("train"), 600) == 0, calm.output()
    finally:
        calm.kill_all()
    curves = {"calm": curve(calm), "stormy": curve(stormy)}
    print("held-out:", {name: [round(value, 3) for value in values] for name, values in curves.items()})
    print("seconds:", {run.name: round(run.summary()["wall_s"], 1) for run in (calm, stormy)})
    assert curves["stormy"][-1] >= curves["calm"][-1] - HARM
    half = {name: values[len(values) // 2 :] for name, values in curves.items()}
    assert fmean(half["stormy"]) >= fmean(half["calm"]) - HARM


@pytest.mark.slow
@pytest.mark.timeout(3600 if SOAK else 1800)
def test_a_storm_of_kills_and_stops_changes_nothing_but_the_time(tmp_path: Path, demo_model: Path) -> None:
    (tmp_path / "stormy").mkdir()
    run, rng = make_run(tmp_path / "stormy", "stormy", demo_model), random.Random(SEED)
    storm = Storm(run)
    try:
        train = run.start("train")
        run.wait_for_step(2)
        for blow in blows(rng, STRUCK, ROUNDS, LONGEST_S):
            storm.strike(blow, rng)
        assert run.ended(train, 900) == 0, run.output()
        print("\n".join(storm.log))
        print(f"faults {sum(storm.struck.values())}: {dict(storm.struck)}, absent {storm.absent}, redone {storm.redone} steps")
        print(f"restarts: {dict(restarts(run.root / 'train-0.log'))}, slowest {storm.slowest_s:.1f} s")
        assert set(storm.struck.values()) == {ROUNDS}
        assert len(storm.struck) == 2 * len(STRUCK)
        check_books(run)
        print("SHA-256:", check_replay(run))
        if SOAK:
            check_learning(run, demo_model)
        else:
            before, after = (run.summary()[when]["sampled"]["mean"] for when in ("before", "after"))
            assert after >= before - HARM
    finally:
        sys.stdout.flush()
        run.kill_all()

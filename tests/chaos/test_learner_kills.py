"""`kill -9` of a learner at any moment: no torn checkpoint is ever visible, and the end is that of an undisturbed run."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from prolong.common.config.run_files import run_paths
from prolong.common.metrics import MetricsRecord, read_metrics
from prolong.learner.checkpoints.checkpoint import LearnerState, checkpoint_path, read_state

from tests.support.recorded_run import staged_config
from tests.support.tiny_model import make_tiny_model

ROOT = Path(__file__).parents[2]
STEPS, KILLS, SEED = 60, 20, 1
EXACT = ("model.safetensors", "trainer.safetensors", "reference.safetensors")


def lives(what: str, model: Path, folder: Path, *numbers: int) -> Any:
    """What tests/support/learner_lives.py found: a process of its own, because forking one with threads may hang."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.support.learner_lives", what, str(model), str(folder), *map(str, numbers)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("model"), tied=True)


def digests(checkpoint: Path) -> dict[str, str]:
    return {name: hashlib.sha256((checkpoint / name).read_bytes()).hexdigest() for name in EXACT}


def exact_state(checkpoint: Path) -> LearnerState:
    """Without what clocks say."""
    return msgspec.structs.replace(read_state(checkpoint), wall_s=0.0, spent={})


def exact_record(record: MetricsRecord) -> MetricsRecord:
    """Without what clocks and the machine say."""
    return {name: value for name, value in record.items() if not name.endswith("_s") and not name.startswith("perf/")}


@pytest.mark.slow
@pytest.mark.timeout(1000)
def test_twenty_kills_leave_the_run_as_it_would_have_been_to_the_bit(model: Path, tmp_path: Path) -> None:
    first, *killed, last = lives("learn", model, tmp_path, SEED, KILLS, STEPS)
    logs = "".join(log.read_text() for log in tmp_path.glob("*/*/lives.log"))
    assert (first["exit_code"], last["exit_code"]) == (0, 0), logs
    assert [life["exit_code"] for life in killed] == [-9] * KILLS, logs
    assert all(life["newest"] < STEPS for life in killed)
    assert len({life["newest"] for life in killed}) > KILLS // 3  # deaths all over the run
    assert sum(life["torn"] for life in killed) > KILLS // 3  # and inside the writing of checkpoints
    whole, mended = (run_paths(staged_config(model, tmp_path / name, steps=STEPS)) for name in ("whole", "killed"))
    ends = [checkpoint_path(paths.checkpoints, STEPS) for paths in (whole, mended)]
    state = exact_state(ends[0])
    assert (state.version, state.stage.index) == (STEPS, 2)
    assert state.resets.count >= 6
    assert state.entropy_coefficient > 0
    assert exact_state(ends[1]) == state
    assert digests(ends[1]) == digests(ends[0])
    records = [read_metrics(paths.folder / "metrics.jsonl") for paths in (whole, mended)]
    assert [record["step"] for record in records[1]] == list(range(1, STEPS + 1))
    assert list(map(exact_record, records[1])) == list(map(exact_record, records[0]))
    assert [read_state(end).wall_s for end in ends] == [steps[-1]["wall_s"] for steps in records]  # no step's time is lost


@pytest.mark.slow
@pytest.mark.timeout(1000)
def test_at_whatever_file_operation_a_save_dies_all_that_is_visible_is_whole(model: Path, tmp_path: Path) -> None:
    found = lives("save", model, tmp_path / "checkpoints")
    assert len(found) > 20
    before: list[int] = []
    for version, after in enumerate(found, start=1):
        assert after[-2:] in ([*before, version][-2:], before[-2:])  # the newest two, with or without the new one
        before = after
    assert any(version in after for version, after in enumerate(found[2:-1], start=3))  # some died after the renaming
    assert before[-1] == len(found)
    assert len(before) == 2

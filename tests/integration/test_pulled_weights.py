"""The processes of learner and buffer, and an actor that pulls: what it holds is what the checkpoints of the learner say."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch
from prolong.common.config.run_files import find_checkpoints, run_paths
from prolong.common.config.sections import Config
from prolong.common.metrics import read_metrics

from tests.support.buffer_process import BufferProcess
from tests.support.checkpoints import load_weights
from tests.support.learner_process import end_of, learner, learner_under_torchrun, make_config, wait_for_steps
from tests.support.runs import free_port, wait_until
from tests.support.scripted_actor import ScriptedActor


@pytest.fixture
def cfg(tmp_path: Path) -> Config:
    cfg = make_config(tmp_path)
    cfg.run.steps = 1000
    cfg.checkpoint.every, cfg.checkpoint.keep = 1, 1000
    cfg.weights.transport = "pull"
    cfg.weights.bucket_mb = 1
    return cfg


def assert_held_what_was_saved(cfg: Config, actor: ScriptedActor) -> None:
    """Every version that it pulled, and of which a whole checkpoint is left."""
    checkpoints = find_checkpoints(run_paths(cfg).checkpoints)
    versions = checkpoints.keys() & actor.history.keys()
    assert versions
    for version in versions:
        expected, held = load_weights(checkpoints[version]), actor.history[version]
        # tied: what is saved once is sent once
        assert held.keys() == expected.keys()
        assert all(torch.equal(held[name], tensor) for name, tensor in expected.items()), version


def steps_of(cfg: Config) -> int:
    return len(read_metrics(run_paths(cfg).metrics))


def pulled_after(actor: ScriptedActor, version: int, num: int) -> bool:
    """Whether the actor has pulled so many versions that are newer than this one."""
    return len({pulled for pulled in actor.versions if pulled > version}) >= num


@pytest.mark.timeout(600)
def test_pulled_weights_are_the_learners_to_the_bit_after_every_step_a_killed_learner_and_a_killed_buffer(cfg: Config) -> None:
    cfg.buffer.address = f"tcp://127.0.0.1:{free_port()}"
    with BufferProcess(cfg) as buffer, ScriptedActor(cfg, buffer.address, pulls=True) as actor:
        with learner(cfg, buffer.address) as process:
            wait_for_steps(cfg, 4)
            # it may skip versions, and be behind by as many as eta allows
            wait_until("versions of the first life", lambda: pulled_after(actor, 0, 3), 90)
            process.send_signal(signal.SIGKILL)
            process.wait(60)
        newest = max(actor.versions)
        with learner(cfg, buffer.address) as process:
            wait_until("versions of the second life", lambda: pulled_after(actor, newest, 2), 90)
            buffer.kill()
            with BufferProcess(cfg):
                steps = steps_of(cfg)
                wait_for_steps(cfg, steps + 3)
                wait_until("a version from after the kill", lambda: actor.versions[-1] > steps, 90)
                process.send_signal(signal.SIGTERM)
                end_of(process)
    assert_held_what_was_saved(cfg, actor)
    records = read_metrics(run_paths(cfg).metrics)
    assert max(record["buffer/staleness_max"] for record in records) <= cfg.buffer.eta
    assert records[-1]["weights/offered"] >= 3
    assert "weights/publish_s" not in records[-1], "nothing was broadcast"


@pytest.mark.timeout(300)
def test_of_two_ranks_the_first_serves_an_actor_that_pulls_and_broadcasts_to_another(cfg: Config) -> None:
    cfg.weights.transport = "collective"
    with (
        BufferProcess(cfg) as buffer,
        learner_under_torchrun(cfg, buffer.address, 2),
        ScriptedActor(cfg, buffer.address, "far", pulls=True) as pulls,
        ScriptedActor(cfg, buffer.address, "near") as joins,
    ):
        # one of them alone could feed the learner
        wait_until("versions at both", lambda: pulled_after(pulls, 0, 3) and pulled_after(joins, 0, 3), 200)
        wait_for_steps(cfg, max(pulls.versions + joins.versions) + 1)
        record = read_metrics(run_paths(cfg).metrics)[-1]
    assert_held_what_was_saved(cfg, pulls)
    assert record["weights/offered"] >= 3
    assert record["weights/publish_s"] > 0
    assert record["weights/failed"] == 0

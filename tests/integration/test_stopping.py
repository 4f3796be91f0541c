"""SIGTERM in the middle of a step that lasts a minute: the supervisor, torchrun's agent, its ranks and the buffer are real."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest
from prolong.common.config.run_files import find_checkpoints, run_paths, save_config
from prolong.common.config.sections import Config
from prolong.common.metrics import read_metrics
from prolong.launch.local.process import ChildProcess
from prolong.launch.local.supervisor import RunOutcome, Supervisor

from tests.support.learner_process import make_config
from tests.support.runs import free_port
from tests.support.scripted_actor import ScriptedActor
from tests.support.slow_learner import QUICK_STEPS

ROOT = Path(__file__).parents[2]
RANKS = 2


def processes(cfg: Config) -> list[ChildProcess]:
    paths = run_paths(cfg)
    save_config(cfg, paths.config)
    paths.logs.mkdir(parents=True)
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    commands = {
        "buffer": ["prolong.launch.cli", "buffer", "--recipe", str(paths.config)],
        "learner": ["tests.support.slow_learner", str(paths.config)],
    }
    return [
        ChildProcess(name, [sys.executable, "-m", *command], env=env, log=paths.logs / f"{name}.log")
        for name, command in commands.items()
    ]


async def interrupted(supervisor: Supervisor, folder: Path) -> RunOutcome:
    """Run until every rank is in the middle of a long step, then stop this process as the user would."""
    running = asyncio.ensure_future(supervisor.run())
    while not all((folder / f"slow-{rank}").exists() for rank in range(RANKS)):
        assert not running.done(), running.result()
        await asyncio.sleep(0.02)
    os.kill(os.getpid(), signal.SIGTERM)
    return await running


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_two_ranks_leave_a_long_step_within_the_time_to_stop_with_the_last_finished_step_saved(tmp_path: Path) -> None:
    cfg = make_config(tmp_path)
    cfg.run.steps, cfg.checkpoint.every, cfg.launch.learner_ranks = 1000, 500, RANKS
    cfg.buffer.address, cfg.buffer.batch_groups, cfg.learner.token_budget = f"tcp://127.0.0.1:{free_port()}", 16, 1
    paths = run_paths(cfg)
    started = processes(cfg)
    supervisor = Supervisor(
        started, leader="learner", last="buffer", limits=cfg.launch, finished=bool, note=print, step=lambda: 0
    )
    actor = ScriptedActor(cfg, cfg.buffer.address)
    actor.start()
    outcome = asyncio.run(interrupted(supervisor, paths.folder))
    actor.leave.set()
    actor.join(20)
    assert outcome.code == 128 + signal.SIGTERM
    log = (paths.logs / "learner.log").read_text()
    # whatever did not leave by itself within launch.stop_s was killed, and said nothing
    assert f"version {QUICK_STEPS} is saved; go on with: prolong learner" in log, log
    assert list(find_checkpoints(paths.checkpoints)) == [QUICK_STEPS]
    assert [record["step"] for record in read_metrics(paths.metrics)] == list(range(1, QUICK_STEPS + 1))

"""A learner of two ranks is told to stop in the middle of a step that lasts a minute, or loses a rank.

The supervisor, torchrun's agent, its ranks and the buffer are real.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest
import torch
from prolong.common.config.run_files import find_checkpoints, run_paths, save_config
from prolong.common.config.sections import Config
from prolong.common.metrics import read_metrics
from prolong.common.types import Group, Ticket
from prolong.launch.local.live import last_step
from prolong.launch.local.process import ChildProcess
from prolong.launch.local.supervisor import RunOutcome, Supervisor
from torch import distributed as dist
from transformers import AutoModelForCausalLM

from tests.support.checkpoints import load_weights
from tests.support.learner_process import make_config
from tests.support.runs import free_port, wait_until
from tests.support.scripted_actor import ScriptedActor
from tests.support.slow_learner import QUICK_STEPS

ROOT = Path(__file__).parents[2]
RANKS = 2


@pytest.fixture
def cfg(tmp_path: Path) -> Config:
    cfg = make_config(tmp_path)
    cfg.launch.learner_ranks, cfg.buffer.address = RANKS, f"tcp://127.0.0.1:{free_port()}"
    return cfg


def processes(cfg: Config, learner: list[str]) -> list[ChildProcess]:
    """Buffer and learner, not started."""
    paths = run_paths(cfg)
    save_config(cfg, paths.config)
    paths.logs.mkdir(parents=True)
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    commands = {
        "buffer": ["prolong.launch.cli", "buffer", "--recipe", str(paths.config)],
        "learner": [*learner, str(paths.config)],
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
def test_two_ranks_leave_a_long_step_within_the_time_to_stop_with_the_last_finished_step_saved(cfg: Config) -> None:
    cfg.run.steps, cfg.checkpoint.every = 1000, 500
    cfg.buffer.batch_groups, cfg.learner.token_budget = 16, 1
    # half of the step; a rank leaves between two of its micro-batches, each of which lasts two seconds
    cfg.launch.stop_s = 30.0
    paths = run_paths(cfg)
    started = processes(cfg, ["tests.support.slow_learner"])
    supervisor = Supervisor(
        started, leader="learner", last="buffer", limits=cfg.launch, finished=bool, note=print, step=lambda: 0
    )
    with ScriptedActor(cfg, cfg.buffer.address):
        outcome = asyncio.run(interrupted(supervisor, paths.folder))
    assert outcome.code == 128 + signal.SIGTERM
    log = (paths.logs / "learner.log").read_text()
    # whatever did not leave by itself within launch.stop_s was killed, and said nothing
    assert f"version {QUICK_STEPS} is saved; go on with: prolong learner" in log, log
    assert list(find_checkpoints(paths.checkpoints)) == [QUICK_STEPS]
    assert [record["step"] for record in read_metrics(paths.metrics)] == list(range(1, QUICK_STEPS + 1))


class PausingActor(ScriptedActor):
    """An actor that makes no group of version 3 or later before `goes_on`: the learner makes four steps at most until then."""

    def __init__(self, cfg: Config, address: str) -> None:
        super().__init__(cfg, address)
        self.goes_on = threading.Event()

    def _answer(self, ticket: Ticket) -> Group:
        while ticket.version >= 3 and not self.leave.is_set() and not self.goes_on.wait(0.1):
            pass
        return super()._answer(ticket)


async def one_rank_killed(supervisor: Supervisor, cfg: Config, actor: PausingActor) -> RunOutcome:
    """Run to the end; rank 1 is killed once there are three steps."""
    running = asyncio.ensure_future(supervisor.run())
    metrics = run_paths(cfg).metrics
    while not (metrics.exists() and len(read_metrics(metrics)) >= 3):
        assert not running.done(), running.result()
        await asyncio.sleep(0.02)
    ranks = [each for each in psutil.Process().children(recursive=True) if _rank_of(each) == "1"]
    assert len(ranks) == 1
    ranks[0].kill()
    actor.goes_on.set()
    return await running


def _rank_of(process: psutil.Process) -> str:
    try:
        return process.environ().get("RANK", "")
    except psutil.Error:
        return ""


@pytest.mark.slow
def test_a_killed_rank_takes_the_learner_with_it_and_all_of_it_resumes_without_losing_a_step(cfg: Config) -> None:
    cfg.run.steps, cfg.checkpoint.every = 8, 2
    paths, notes = run_paths(cfg), []
    started = processes(cfg, ["prolong.launch.cli", "learner", "--recipe"])
    supervisor = Supervisor(
        started,
        leader="learner",
        last="buffer",
        limits=cfg.launch,
        finished=paths.summary.exists,
        note=notes.append,
        step=lambda: last_step(paths.metrics),
    )
    with PausingActor(cfg, cfg.buffer.address) as actor:
        outcome = asyncio.run(one_rank_killed(supervisor, cfg, actor))
    log = (paths.logs / "learner.log").read_text()
    assert outcome.code == 0, log
    assert [note.partition(" at ")[0] for note in notes] == ["learner ended with code 137"]
    assert [record["step"] for record in read_metrics(paths.metrics)] == list(range(1, 9))
    newest = paths.checkpoints / "step-00000008"
    assert len(list(newest.glob("policy-*-of-00002.safetensors"))) == RANKS
    # the last one of a run is a model too
    stored = load_weights(newest)
    model = AutoModelForCausalLM.from_pretrained(newest)
    assert all(torch.equal(parameter, stored[name]) for name, parameter in model.named_parameters())


def test_a_rank_that_waits_for_the_others_ends_at_once(cfg: Config) -> None:
    """torchrun's agent would wait for it for half a minute, and the other nodes for the agent."""
    save_config(cfg, run_paths(cfg).config)
    meeting = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # pyright: ignore[reportPrivateImportUsage]
    meeting_at = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(meeting.port), "GROUP_RANK": "1", "LOCAL_RANK": "0"}
    of_torchrun = meeting_at | {"RANK": "1", "WORLD_SIZE": "2", "TORCHELASTIC_USE_AGENT_STORE": "False"}
    env = {**os.environ, "OMP_NUM_THREADS": "1", **of_torchrun}
    rank = subprocess.Popen([sys.executable, "-m", "prolong.launch.torchrun", str(run_paths(cfg).config)], env=env)
    try:
        # of the first meeting, the one who waits
        wait_until("the rank to wait for the other one", lambda: meeting.num_keys() > 1, 150)
        rank.terminate()
        assert rank.wait(10) == -signal.SIGTERM
    finally:
        rank.kill()
        rank.wait(10)

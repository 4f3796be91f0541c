"""The learner as a real process under torchrun, the real buffer, and a scripted actor that joins the weights group for real."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from prolong.common.config.run_files import run_paths
from prolong.common.config.sections import Config
from prolong.common.metrics import read_metrics
from prolong.common.types import Rollout, Ticket, float32_array
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tests.support.buffer_process import BufferProcess
from tests.support.learner_process import end_of, learner, learner_under_torchrun, make_config, wait_for_steps, weights_of
from tests.support.runs import free_port, wait_until
from tests.support.scripted_actor import ScriptedActor

EXACT = ("model.safetensors", "trainer.safetensors", "reference.safetensors")


@pytest.fixture
def cfg(tmp_path: Path) -> Config:
    return make_config(tmp_path)


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_run_reaches_its_end_and_actors_hold_what_the_last_checkpoint_holds(cfg: Config, ranks: int) -> None:
    """Two ranks share every micro-batch; tests/chaos/test_elasticity.py has two that do not."""
    cfg.learner.context_parallel = ranks
    with (
        BufferProcess(cfg) as buffer,
        learner_under_torchrun(cfg, buffer.address, ranks) as process,
        ScriptedActor(cfg, buffer.address) as actor,
    ):
        end_of(process)
        # it hears of the end
        actor.join(60)
    records = read_metrics(run_paths(cfg).metrics)
    assert [record["step"] for record in records] == [1, 2, 3, 4]
    assert actor.versions[0] == 0
    assert actor.versions == sorted(actor.versions)
    if actor.versions[-1] == 4:
        assert all(torch.equal(actor.received[name], tensor) for name, tensor in weights_of(cfg, 4).items())
    assert [record["reference/epoch"] for record in records] == [0, 0, 1, 1]
    assert records[0]["reference/kl"] == records[3]["reference/kl"] == 0.0
    assert max(record["buffer/staleness_max"] for record in records) <= 1
    fresh = [record for record in records if record["buffer/staleness_max"] == 0]
    assert fresh
    for record in fresh:  # the actor's weights are the learner's: on-policy, whatever the temperature
        assert record["policy/weight_mean"] == pytest.approx(1.0, abs=1e-4)
    summary = json.loads(run_paths(cfg).summary.read_text())
    assert summary["steps"] == 4
    assert summary["reference_resets"] == 1
    assert summary["ledger"]["trained"] == 8
    assert summary["time_split"]["learner"]["compute_s"] > 0
    assert sorted(path.name for path in run_paths(cfg).checkpoints.iterdir()) == ["step-00000002", "step-00000004"]
    check_export(cfg, run_paths(cfg).checkpoints / "step-00000004")


class OtherPolicy(ScriptedActor):
    """An actor whose engine computes something else than the learner."""

    def _rollout(self, ticket: Ticket, seed: int, index: int) -> Rollout:
        rollout = super()._rollout(ticket, seed, index)
        apart = float32_array(rollout.behaviour_logprobs) - np.float32(0.5)
        return msgspec.structs.replace(rollout, behaviour_logprobs=apart.astype("<f4").tobytes())


def test_a_learner_whose_sampler_has_another_policy_ends_with_a_users_error(cfg: Config) -> None:
    """Exit code 2: nobody starts it again."""
    cfg.buffer.eta = 1
    with BufferProcess(cfg) as buffer, learner(cfg, buffer.address) as process, OtherPolicy(cfg, buffer.address):
        _, errors = process.communicate(timeout=200)
    assert process.returncode == 2, errors
    assert "sampler and learner disagree" in errors
    assert "0.5 nats on average" in errors
    assert not run_paths(cfg).metrics.exists() or read_metrics(run_paths(cfg).metrics) == []


def test_sigterm_saves_and_ends_well_and_the_run_goes_on_from_there(cfg: Config) -> None:
    cfg.run.steps, cfg.checkpoint.every = 1000, 500
    with BufferProcess(cfg) as buffer, ScriptedActor(cfg, buffer.address):
        with learner(cfg, buffer.address) as process:
            wait_for_steps(cfg, 2)
            process.send_signal(signal.SIGTERM)
            end_of(process)
        (checkpoint,) = run_paths(cfg).checkpoints.iterdir()
        stopped_at = int(checkpoint.name.removeprefix("step-"))
        assert stopped_at >= 2
        cfg.run.steps = stopped_at + 2
        with learner(cfg, buffer.address) as process:
            wait_for_steps(cfg, stopped_at + 2)
    assert [record["step"] for record in read_metrics(run_paths(cfg).metrics)] == list(range(1, stopped_at + 3))


def test_another_checksum_is_cordoned_sent_again_and_the_learner_goes_on(cfg: Config) -> None:
    with (
        BufferProcess(cfg) as buffer,
        learner(cfg, buffer.address) as process,
        ScriptedActor(cfg, buffer.address, corrupt_checksum_of=0) as actor,
    ):
        errors = end_of(process)
        actor.join(60)
    assert actor.versions[:2] == [0, 0]
    summary = json.loads(run_paths(cfg).summary.read_text())
    assert summary["counters"]["buffer/cordoned"] == 1
    assert "received other bytes than were sent" in errors


def test_a_learner_without_actors_stops_with_a_sentence(cfg: Config) -> None:
    cfg.learner.starve_s = 2.0
    with BufferProcess(cfg) as buffer, learner(cfg, buffer.address) as process:
        _, errors = process.communicate(timeout=200)
    assert process.returncode != 0
    assert "LearnerStarved: no batch of version 0 within learner.starve_s = 2 s" in errors


def test_a_context_beyond_the_models_is_refused(cfg: Config) -> None:
    cfg.model.max_context = 4096
    with BufferProcess(cfg) as buffer, learner(cfg, buffer.address) as process:
        _, errors = process.communicate(timeout=200)
    assert "ModelError: model.max_context = 4096" in errors


def test_a_killed_learner_redoes_its_steps_to_the_bit(cfg: Config) -> None:
    """Redo log: checkpoint 2 and the recorded batches give checkpoint 4 again, byte for byte, as if it had never been lost."""
    cfg.run.steps = 1000
    cfg.checkpoint.keep = 1000  # however far the learner gets before it dies, checkpoint 2 and the batches after it stay
    folder = run_paths(cfg).checkpoints
    with BufferProcess(cfg) as buffer, ScriptedActor(cfg, buffer.address):
        with learner(cfg, buffer.address) as process:
            wait_for_steps(cfg, 4)
            wait_until("a checkpoint", lambda: (folder / "step-00000004").exists(), 90)
            process.send_signal(signal.SIGKILL)
            process.wait(60)
        lost = digests(folder / "step-00000004")
        for path in folder.iterdir():
            if path.name != "step-00000002":
                shutil.rmtree(path)
        with learner(cfg, buffer.address) as process:
            wait_until("the checkpoint again", lambda: (folder / "step-00000004").exists(), 150)
            found = digests(folder / "step-00000004")
    assert found == lost


def test_a_buffer_that_lost_its_memory_begins_a_generation_and_the_learner_goes_on_from_its_version(cfg: Config) -> None:
    cfg.run.steps = 1000
    cfg.buffer.address = f"tcp://127.0.0.1:{free_port()}"
    with BufferProcess(cfg) as buffer, learner(cfg, buffer.address) as process:
        with ScriptedActor(cfg, buffer.address):
            wait_for_steps(cfg, 2)
            buffer.kill()
        shutil.rmtree(run_paths(cfg).journal)
        with BufferProcess(cfg) as another, ScriptedActor(cfg, another.address):
            steps = len(read_metrics(run_paths(cfg).metrics))
            wait_for_steps(cfg, steps + 2)
            process.send_signal(signal.SIGTERM)
            end_of(process)
    steps = [record["step"] for record in read_metrics(run_paths(cfg).metrics)]
    assert steps == list(range(1, len(steps) + 1))
    newest = max(run_paths(cfg).checkpoints.iterdir())
    assert json.loads((newest / "state.json").read_text())["generation"] > 1


def check_export(cfg: Config, checkpoint: Path) -> None:
    """transformers loads it, with the tokenizer that the run began with."""
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    stored = load_file(checkpoint / "model.safetensors")
    assert "lm_head.weight" not in stored  # tied
    assert all(torch.equal(parameter, stored[name]) for name, parameter in model.named_parameters())
    assert (checkpoint / "tokenizer.json").read_bytes() == (Path(cfg.model.path) / "tokenizer.json").read_bytes()


def digests(checkpoint: Path) -> dict[str, str]:
    return {name: hashlib.sha256((checkpoint / name).read_bytes()).hexdigest() for name in EXACT}

"""The learner's loop in this process, on recorded batches: when it saves, and how it ends before its first step."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

import pytest
import torch
from prolong.buffer.journal.journal import read_journal
from prolong.common.config.run_files import find_checkpoints, run_paths
from prolong.common.config.sections import Config
from prolong.common.errors import RunStopped
from prolong.common.metrics import read_metrics
from prolong.common.signals import StopRequest
from prolong.common.types import StepEvidence
from prolong.learner import main as module
from prolong.learner.checkpoints.saver import Checkpointer
from prolong.learner.main import Learner
from prolong.learner.ranks import Ranks
from prolong.learner.source.recorded import RecordedSource

from tests.support.recorded_run import recorded_steps_config


@pytest.fixture
def cfg(tmp_path: Path) -> Config:
    return recorded_steps_config(tmp_path)


def source_of(cfg: Config) -> RecordedSource:
    return RecordedSource(cfg, Ranks(), read_journal(run_paths(cfg).journal), threading.Event())


def run(learner: Learner) -> bool:
    ended = learner.run()
    learner.recorder.close()
    learner.source.close()
    return ended


def test_a_slow_disk_is_not_given_another_checkpoint_by_the_clock(cfg: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg.checkpoint.every_s = 1e-6
    monkeypatch.setattr(Checkpointer, "busy", True)
    run(Learner.start(cfg, Ranks(), source_of(cfg), torch.device("cpu")))
    assert list(find_checkpoints(run_paths(cfg).checkpoints)) == [4]


@pytest.mark.parametrize(("stop_s", "warned"), [(1e-6, True), (600.0, False)])
def test_a_time_to_stop_that_is_shorter_than_a_checkpoint_is_said_once(
    cfg: Config, caplog: pytest.LogCaptureFixture, stop_s: float, warned: bool
) -> None:
    cfg.launch.stop_s, cfg.checkpoint.every = stop_s, 1
    run(Learner.start(cfg, Ranks(), source_of(cfg), torch.device("cpu")))
    said = [text for text in caplog.messages if "the last steps before a stop would be computed again" in text]
    assert len(said) == warned


class NotedSource(RecordedSource):
    """Notes which steps it was told would be saved."""

    noted: list[tuple[int, bool]]
    evidence: list[StepEvidence]

    def step_done(self, version: int, stage: int, *, saves: bool, evidence: StepEvidence) -> None:
        self.noted.append((version, saves))
        self.evidence.append(evidence)


@pytest.mark.parametrize(("every_s", "saved"), [(0.0, [4]), (1e-6, [1, 2, 3, 4]), (1e6, [4])])
def test_a_checkpoint_is_also_due_when_the_last_one_is_old(
    cfg: Config, monkeypatch: pytest.MonkeyPatch, every_s: float, saved: list[int]
) -> None:
    cfg.checkpoint.every_s = every_s
    # these steps are shorter than a write
    monkeypatch.setattr(Checkpointer, "busy", False)
    source = NotedSource(cfg, Ranks(), read_journal(run_paths(cfg).journal), threading.Event())
    source.noted, source.evidence = [], []
    run(Learner.start(cfg, Ranks(), source, torch.device("cpu")))
    assert list(find_checkpoints(run_paths(cfg).checkpoints)) == saved
    by_time = every_s == 1e-6
    assert source.noted == [(version, by_time) for version in range(1, 5)]


def test_every_step_says_how_far_its_data_were_from_the_policy_and_how_long_it_waited(cfg: Config) -> None:
    source = NotedSource(cfg, Ranks(), read_journal(run_paths(cfg).journal), threading.Event())
    source.noted, source.evidence = [], []
    run(Learner.start(cfg, Ranks(), source, torch.device("cpu")))
    records = read_metrics(run_paths(cfg).metrics)
    assert [(said.ess, said.kl) for said in source.evidence] == [
        (record["policy/ess"], record["policy/kl_behaviour_k3"]) for record in records
    ]
    assert all(0 < said.wait_s < said.step_s for said in source.evidence)


def test_a_signal_while_the_model_is_loaded_ends_the_learner_there(cfg: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading a large model takes minutes, and nothing is lost."""
    reached: list[str] = []

    def load(*_: object, **__: object) -> None:
        signal.raise_signal(signal.SIGTERM)
        reached.append("the rest of the model")

    monkeypatch.setattr(module, "load_policy", load)
    before, stop = signal.getsignal(signal.SIGTERM), StopRequest()
    source = source_of(cfg)
    with pytest.raises(RunStopped, match="told to stop before the first step, nothing is lost; go on with: prolong") as stopped:
        module._start(cfg, Ranks(), source, torch.device("cpu"), stop)
    source.close()
    assert stopped.value.exit_code == 0
    assert stop.is_set()
    assert reached == []
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_learner_that_is_told_to_stop_saves_the_last_finished_step_and_drops_the_one_under_way(
    cfg: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg.learner.token_budget, micro_batches = 1, 12
    stop = StopRequest()
    learner = Learner.start(cfg, Ranks(), source_of(cfg), torch.device("cpu"), stop)
    backward, calls = learner.trainer._backward, 0

    def slow(*args: object, **settings: object) -> object:
        nonlocal calls
        calls += 1
        # in the middle of the third step
        if calls == 2 * micro_batches + 3:
            stop.set()
        return backward(*args, **settings)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(learner.trainer, "_backward", slow)
    assert not run(learner)
    assert calls == 2 * micro_batches + 3
    assert list(find_checkpoints(run_paths(cfg).checkpoints)) == [2]
    assert learner.saved == 2

"""The processes of `prolong train`, their environment, and its last lines. tests/chaos has whole runs."""

import errno
import json
from pathlib import Path

import pytest
from prolong.common.config.pools import PoolConfig
from prolong.common.config.run_files import RunPaths
from prolong.common.config.sections import Config, Device, LaunchConfig, ModelConfig, RunConfig
from prolong.common.errors import UserError
from prolong.launch.local import train as local
from prolong.launch.local.supervisor import RunOutcome


@pytest.fixture
def cfg(tmp_path: Path) -> Config:
    return Config(
        run=RunConfig(name="r", root=str(tmp_path)),
        model=ModelConfig(path=str(tmp_path), device=Device.cpu),
        launch=LaunchConfig(actors=2),
    )


@pytest.fixture
def paths(tmp_path: Path) -> RunPaths:
    return RunPaths(tmp_path / "r")


def test_a_run_is_one_buffer_one_learner_and_its_actors_on_the_saved_settings(cfg: Config, paths: RunPaths) -> None:
    processes = local.run_processes(cfg, paths)
    assert [process.name for process in processes] == ["buffer", "learner", "actor-0", "actor-1"]
    assert processes[3].command[-5:] == ["actor", "--name", "actor-1", "--recipe", str(paths.config)]
    assert [process.log.name for process in processes] == ["buffer.log", "learner.log", "actor-0.log", "actor-1.log"]


def test_with_pools_the_actors_are_those_of_the_pools(cfg: Config, paths: RunPaths) -> None:
    cfg.pools = {"large": PoolConfig(count=2), "far": PoolConfig(count=0), "small": PoolConfig()}
    processes = local.run_processes(cfg, paths)
    assert [process.name for process in processes] == ["buffer", "learner", "large-0", "large-1", "small-0"]
    assert processes[3].command[-7:-2] == ["actor", "--name", "large-1", "--pool", "large"]


def test_the_environment_says_what_the_caller_left_unsaid(cfg: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    assert local.process_environment(cfg, None)["OMP_NUM_THREADS"] == "1"
    assert local.process_environment(cfg, None)["HF_HUB_OFFLINE"] == "1"
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert local.process_environment(cfg, "2,3")["OMP_NUM_THREADS"] == "4"
    assert local.process_environment(cfg, "2,3")["CUDA_VISIBLE_DEVICES"] == "2,3"
    cfg.model.path = "some-org/some-model"
    assert "HF_HUB_OFFLINE" not in local.process_environment(cfg, None)


def test_a_learner_on_gpus_grows_its_segments_unless_the_caller_says_otherwise(
    cfg: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"):
        monkeypatch.delenv(name, raising=False)
    assert local.process_environment(cfg, "0", learner=True)["PYTORCH_ALLOC_CONF"] == "expandable_segments:True"
    assert "PYTORCH_ALLOC_CONF" not in local.process_environment(cfg, "0")
    assert "PYTORCH_ALLOC_CONF" not in local.process_environment(cfg, None, learner=True)
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "backend:cudaMallocAsync")
    assert "PYTORCH_ALLOC_CONF" not in local.process_environment(cfg, "0", learner=True)


def test_a_run_folder_belongs_to_one_supervisor(paths: RunPaths) -> None:
    with local.locked_run(paths), pytest.raises(UserError, match="another `prolong train`"), local.locked_run(paths):
        pass
    with local.locked_run(paths):
        assert paths.logs.is_dir()


def test_a_file_system_without_locks_is_refused(paths: RunPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(local.fcntl, "flock", flock)
    with pytest.raises(UserError, match="gives no locks"), local.locked_run(paths):
        pass


def test_the_summary_of_an_earlier_end_is_kept_under_its_step(paths: RunPaths) -> None:
    paths.folder.mkdir()
    paths.summary.write_text(json.dumps({"steps": 40}))
    local.set_aside_summary(paths)
    assert not paths.summary.exists()
    assert (paths.folder / "summary-step-00000040.json").exists()


def test_a_failed_run_shows_the_cause_and_how_to_resume(paths: RunPaths, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = RunOutcome(code=1, reason="actor-0 ended with code 1 after 3 restarts", culprit="buffer", log=["disk full"])
    assert local.report_outcome(outcome, paths, "prolong train", resume="prolong train --recipe CONFIG") == 1
    captured = capsys.readouterr()
    assert "last lines of buffer (the first to fail" in captured.err
    assert "  | disk full\nprolong train: actor-0 ended with code 1 after 3 restarts\n" in captured.err
    assert captured.out == "resume with: prolong train --recipe CONFIG\n"


def test_a_run_that_ended_well_shows_before_and_after(paths: RunPaths, capsys: pytest.CaptureFixture[str]) -> None:
    paths.folder.mkdir()
    scores = {"sampled": {"by_task": {"math/addition": 0.4}, "mean": 0.4}}
    summary = {"before": scores, "after": scores, "steps": 3, "wall_s": 9.0, "ledger": {"trained": 12}}
    paths.summary.write_text(json.dumps(summary))
    assert local.report_outcome(RunOutcome(code=0), paths, "prolong train", resume="") == 0
    out = capsys.readouterr().out
    assert ".40 -> .40" in out
    assert "3 steps in 0:09, 12 groups trained" in out
    paths.summary.write_text(json.dumps(summary | {"before": {}, "after": {}}))
    assert local.report_outcome(RunOutcome(code=0), paths, "prolong train", resume="") == 0
    assert "held-out" not in capsys.readouterr().out
    assert str(paths.folder) in out

"""`prolong launch`: what is written, with which modes, what a dry run prints and leaves behind, and what --set takes."""

from __future__ import annotations

from pathlib import Path

import pytest
from prolong.common.config.run_files import load_config
from prolong.common.errors import UserError
from prolong.launch.cli import dispatch
from prolong.launch.jobs import command
from prolong.launch.jobs.api import LaunchJob, Rendered, RenderedFile, actor_kinds
from prolong.launch.recipes import compose


class Recorder:
    """A target that remembers the job that it was asked to render."""

    def __init__(self, commands: list[list[str]]) -> None:
        self.commands = commands
        self.job = LaunchJob(cfg=compose("demo"), folder=Path())

    def render(self, job: LaunchJob) -> Rendered:
        self.job = job
        files = {"plain.txt": RenderedFile(text="plain\n"), "sub/secret.txt": RenderedFile(text="hidden", mode=0o600)}
        return Rendered(files=files, commands=self.commands, notes=["a note"])


@pytest.fixture
def target(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Recorder:
    recorder = Recorder([["touch", str(tmp_path / "submitted")]])
    monkeypatch.setitem(command.TARGETS, "slurm", recorder)
    monkeypatch.chdir(tmp_path)
    return recorder


RECIPE = ["launch", "slurm", "demo_pools", "run.name=mine", "buffer.eta=3"]


def test_files_keys_and_configuration_are_written_with_their_modes(target: Recorder, tmp_path: Path) -> None:
    assert dispatch([*RECIPE, "--out", str(tmp_path / "out")]) == 0
    out = tmp_path / "out"
    modes = {str(path.relative_to(out)): path.stat().st_mode & 0o777 for path in out.rglob("*")}
    assert modes["plain.txt"] == 0o644
    assert modes["sub/secret.txt"] == modes["keys/server.key"] == modes["keys/hosts/learner/client.key"] == 0o600
    assert modes["keys"] == 0o700
    cfg = load_config(out / "config.yaml")
    assert cfg.buffer.eta == 3
    assert target.job.cfg == cfg
    names = {kind.component for kind in actor_kinds(cfg)}
    assert {name.split("/")[1] for name in target.job.keys if name.startswith("hosts/")} == {"learner", *names}
    assert not (tmp_path / "submitted").exists()


def test_rendering_again_keeps_the_keys(target: Recorder) -> None:
    dispatch(RECIPE)
    first = target.job.keys
    dispatch(RECIPE)
    assert target.job.keys == first
    assert target.job.folder == Path("runs/mine/launch").absolute()


def test_what_cannot_be_rendered_leaves_nothing_behind(
    target: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(job: LaunchJob) -> Rendered:
        raise UserError("no such partition")

    monkeypatch.setattr(target, "render", refuse)
    with pytest.raises(UserError, match="no such partition"):
        dispatch(RECIPE)
    assert list(tmp_path.iterdir()) == []


def test_a_new_pool_gets_a_key_beside_those_that_are_there(target: Recorder) -> None:
    dispatch(RECIPE)
    first = target.job.keys
    dispatch([*RECIPE, "pools={late: {count: 1}}"])
    assert first.items() <= target.job.keys.items()
    assert "hosts/late/client.key" in target.job.keys


def test_a_dry_run_prints_everything_but_secrets_and_leaves_nothing(
    target: Recorder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert dispatch([*RECIPE, "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "plain\n" in printed
    assert "eta: 3" in printed
    assert "a note" in printed
    assert "hidden" not in printed
    assert not any(text.strip() in printed for name, text in target.job.keys.items() if name.endswith(".key"))
    assert list(tmp_path.iterdir()) == []


def test_submit_runs_the_commands(target: Recorder, tmp_path: Path) -> None:
    assert dispatch([*RECIPE, "--submit"]) == 0
    assert (tmp_path / "submitted").exists()


def test_submit_passes_a_failure_on_and_names_a_missing_program(target: Recorder) -> None:
    target.commands = [["false"], ["touch", "never"]]
    assert dispatch([*RECIPE, "--submit"]) == 1
    assert not Path("never").exists()
    target.commands = [["no-such-scheduler", "submit"]]
    with pytest.raises(UserError, match="there is no no-such-scheduler here"):
        dispatch([*RECIPE, "--submit"])


def test_settings_of_a_component_lie_above_those_of_all(target: Recorder) -> None:
    dispatch([*RECIPE, "--set", "partition=cheap", "--set", "learner:partition=fast", "--set=time=1-00:00:00"])
    job = target.job
    assert job.setting("learner", "partition") == "fast"
    assert job.setting("buffer", "partition") == "cheap"
    assert job.setting("buffer", "account", "none") == "none"
    assert job.settings_of("learner") == {"partition": "fast", "time": "1-00:00:00"}


@pytest.mark.parametrize("given", ["partition", "=x", "stranger:partition=x"])
def test_a_setting_that_cannot_be_read_is_refused(target: Recorder, given: str) -> None:
    with pytest.raises(UserError, match="expected KEY=VALUE, or COMPONENT:KEY=VALUE with one of buffer, learner"):
        dispatch([*RECIPE, "--set", given])


def test_a_learner_has_at_least_one_node(target: Recorder) -> None:
    with pytest.raises(UserError, match="--learner-nodes 0: expected at least 1"):
        dispatch([*RECIPE, "--learner-nodes", "0"])


def test_a_pool_named_like_a_component_is_refused(target: Recorder) -> None:
    with pytest.raises(UserError, match="give the pool another name"):
        dispatch(["launch", "slurm", "demo", "pools={learner: {count: 1}}"])

"""A run goes on only with settings that fit its checkpoints; every command says so in the same sentence."""

import json
import shutil
from pathlib import Path

import pytest
from prolong.common.config.run_files import run_paths, save_config
from prolong.common.config.sections import Config, ModelConfig, RunConfig, SamplingConfig
from prolong.common.errors import UserError
from prolong.launch import cli
from prolong.launch.entry import exit_code_of
from prolong.launch.resume_check import check_resume

from tests.support.tiny_model import make_tiny_model


@pytest.fixture
def cfg(tmp_path: Path) -> Config:
    """A run with one checkpoint, at step 10, as its files tell."""
    model = make_tiny_model(tmp_path / "model", tied=True)
    sampling = SamplingConfig(max_tokens=100)
    cfg = Config(
        run=RunConfig(name="r", root=str(tmp_path)), model=ModelConfig(path=str(model), max_context=512), sampling=sampling
    )
    cfg.objective.kl_beta = 0.0
    paths = run_paths(cfg)
    save_config(cfg, paths.config)
    checkpoint = paths.checkpoints / "step-00000010"
    shutil.copytree(model, checkpoint)
    (checkpoint / "state.json").write_text(json.dumps({"version": 10, "stage": {"index": 0}}))
    return cfg


def test_the_same_settings_and_those_that_may_change_go_on(cfg: Config) -> None:
    check_resume(cfg)
    cfg.run.steps, cfg.learner.lr = 99, 1e-3
    check_resume(cfg)


def test_all_settings_that_cannot_change_are_named_with_the_way_out(cfg: Config) -> None:
    cfg.objective.kl_beta, cfg.run.seed = 0.001, 5
    folder = run_paths(cfg).folder
    with pytest.raises(UserError) as refused:
        check_resume(cfg)
    text = str(refused.value)
    assert text.startswith(f"{folder} cannot go on from step 10 with other settings: run.seed = 5, but this run has 0: ")
    assert "objective.kl_beta = 0.001, but this run has 0.0: its checkpoints hold no reference" in text
    assert text.endswith(
        "Give run.seed, objective.kl_beta the former value, or begin another run with the model of that step: "
        f"run.name=ANOTHER model.path={folder}/checkpoints/step-00000010"
    )


def test_without_a_checkpoint_everything_may_change(cfg: Config) -> None:
    shutil.rmtree(run_paths(cfg).checkpoints)
    cfg.objective.kl_beta = 0.001
    check_resume(cfg)


def test_the_model_may_move_but_not_become_another_one(cfg: Config, tmp_path: Path) -> None:
    cfg.model.path = str(shutil.move(cfg.model.path, tmp_path / "elsewhere"))
    check_resume(cfg)
    cfg.model.path = str(make_tiny_model(tmp_path / "other", tied=True, vocab=60))
    with pytest.raises(UserError, match=r"model.path = \S+other with vocab_size 60, but this run has vocab_size 64"):
        check_resume(cfg)


def test_another_tokenizer_is_another_model(cfg: Config, tmp_path: Path) -> None:
    other = Path(shutil.copytree(cfg.model.path, tmp_path / "other"))
    settings = json.loads((other / "tokenizer_config.json").read_text())
    (other / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": "{{ messages }}"}))
    cfg.model.path = str(other)
    with pytest.raises(UserError, match=r"model.path = \S+ with tokenizer \w+, but this run has tokenizer \w+: the token ids"):
        check_resume(cfg)


def test_a_configuration_of_another_version_is_not_compared(cfg: Config, caplog: pytest.LogCaptureFixture) -> None:
    run_paths(cfg).config.write_text("run: {nonsense: 1}\n")
    cfg.run.seed = 5
    check_resume(cfg)
    assert "cannot be compared" in caplog.text


@pytest.mark.parametrize("command", ["learner", "buffer", "train"])
def test_every_command_refuses_before_it_writes_a_file(cfg: Config, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = run_paths(cfg).config
    written = recipe.read_bytes()
    argv = [command, "--recipe", str(recipe), "objective.kl_beta=0.5"]
    assert exit_code_of(command, lambda: cli.dispatch(argv)) == 2
    assert "objective.kl_beta = 0.5, but this run has 0.0" in capsys.readouterr().err
    assert recipe.read_bytes() == written

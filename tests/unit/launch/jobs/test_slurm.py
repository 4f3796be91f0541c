"""The scripts that `prolong launch slurm` renders: directives, steps, and what is refused before a job waits for its turn."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from prolong.common.config.sections import Config
from prolong.common.errors import DataError, UserError
from prolong.launch.jobs.api import LaunchJob
from prolong.launch.jobs.slurm import Slurm
from prolong.launch.recipes import CONF_FOLDER, compose

POOLS = "{h100: {count: 2, actor: {tensor_parallel: 2}}, cheap: {count: 0, verifiers: {workers: 6}}}"


@pytest.fixture
def cfg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.jsonl").write_text("{}\n")
    named = [f"model.path={CONF_FOLDER}/demo", "data.train=[{file: prompts.jsonl}]", "run.name=a run"]
    return compose("", [*named, "launch.learner_ranks=4", "model.max_context=128", "sampling.max_tokens=64", f"pools={POOLS}"])


def rendered(cfg: Config, **details) -> dict[str, str]:
    files = Slurm().render(LaunchJob(cfg=cfg, folder=Path("/shared/$x `y`"), **details)).files
    return {name: file.text for name, file in files.items()}


def components(script: str) -> list[list[str]]:
    """The #SBATCH options of each component, as sbatch reads them."""
    parts = script.split("#SBATCH hetjob\n")
    return [shlex.split(" ".join(re.findall(r"^#SBATCH (.*)$", part, re.MULTILINE))) for part in parts]


def steps(script: str, folder: Path) -> dict[str, list[str]]:
    """Name -> words of each process, as the shell hands them to the supervisor."""
    shown = re.sub(r"^exec .* << STEPS$", "cat << STEPS", script, flags=re.MULTILINE)
    shown = re.sub(r"^HOST=.*$", "HOST=10.0.0.9", shown, flags=re.MULTILINE)
    (folder / "shown.sh").write_text(shown)
    environment = {"SLURM_JOB_ID": "20123", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(["bash", "shown.sh"], cwd=folder, env=environment, capture_output=True, text=True, check=True)
    return {name: shlex.split(line) for name, line in (line.split(": ", 1) for line in done.stdout.splitlines())}


def test_a_component_asks_for_what_its_processes_take(cfg: Config) -> None:
    settings = {"": {"time": "2-0"}, "learner": {"partition": "fast"}, "h100": {"cpus-per-task": "12"}}
    learner, pool = components(rendered(cfg, nodes=2, settings=settings)["job.sbatch"])
    assert {"--requeue", "--signal=B:USR1@70", "--job-name=prolong-a run"} <= set(learner)
    assert {"--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=4", "--time=2-0", "--partition=fast"} <= set(learner)
    assert pool == ["--ntasks=2", "--cpus-per-task=12", "--gpus-per-task=2", "--time=2-0"]


def test_steps_survive_the_shell_with_address_and_host_of_the_job(cfg: Config, tmp_path: Path) -> None:
    found = steps(rendered(cfg)["job.sbatch"], tmp_path)
    assert list(found) == ["buffer", "learner", "h100-0", "h100-1"]
    assert all(words[-2:].count("buffer.address=tcp://10.0.0.9:10123") == 1 for words in found.values())
    assert "buffer.keys=/shared/$x `y`/keys" in found["buffer"]
    assert found["buffer"][0] != "srun"
    learner, actor = found["learner"], found["h100-1"]
    assert learner[:3] == ["srun", "--het-group=0", "--ntasks=1"]
    assert learner[-1] == "weights.host=10.0.0.9"
    assert "buffer.keys=/shared/$x `y`/keys/hosts/learner" in learner
    assert actor[:4] == ["srun", "--het-group=1", "--nodes=1", "--ntasks=1"]
    assert {"--gpus-per-task=2", "--exact", "--mem=0", "--pool", "h100", "h100-1"} <= set(actor)
    assert "buffer.keys=/shared/$x `y`/keys/hosts/h100" in actor


def test_without_actors_of_its_own_a_job_has_one_component(cfg: Config, tmp_path: Path) -> None:
    cfg.pools["h100"].count = 0
    files = rendered(cfg)
    assert len(components(files["job.sbatch"])) == 1
    assert not any("--het-group" in word for words in steps(files["job.sbatch"], tmp_path).values() for word in words)
    assert list(files) == ["job.sbatch", "join-h100.sbatch", "join-cheap.sbatch"]


def test_an_actor_that_joins_is_a_job_of_one_task(cfg: Config) -> None:
    script = rendered(cfg)["join-cheap.sbatch"]
    (options,) = components(script)
    assert {"--requeue", "--ntasks=1", "--cpus-per-task=10", "--gpus-per-task=1", "--signal=B:USR1@70"} <= set(options)
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0
    assert script.endswith("--pool cheap buffer.keys='/shared/$x `y`/keys/hosts/cheap' --name cheap-$SLURM_JOB_ID\n")


def test_an_address_that_the_user_gave_is_kept(cfg: Config, tmp_path: Path) -> None:
    cfg.buffer.address = "tcp://login-2:5710"
    assert "buffer.address=tcp://login-2:5710" in steps(rendered(cfg)["job.sbatch"], tmp_path)["buffer"]


@pytest.mark.parametrize(("component", "key"), [("", "signal"), ("h100", "array"), ("", "Partition"), ("", "wrap=x\n#SBATCH")])
def test_options_that_the_job_relies_on_are_refused(cfg: Config, component: str, key: str) -> None:
    with pytest.raises(UserError, match="expected a long option of sbatch other than"):
        rendered(cfg, settings={component: {key: "x"}})


@pytest.mark.parametrize("component", ["", "learner"])
def test_nodes_of_the_learner_are_an_option_of_launch(cfg: Config, component: str) -> None:
    with pytest.raises(UserError, match="give --learner-nodes for the learner"):
        rendered(cfg, settings={component: {"nodes": "2"}})


def test_a_line_break_in_a_value_is_refused(cfg: Config) -> None:
    with pytest.raises(UserError, match="one line"):
        rendered(cfg, settings={"": {"comment": "a\n#SBATCH --uid=0"}})


def test_the_buffer_has_no_component_of_its_own(cfg: Config) -> None:
    with pytest.raises(UserError, match="under Slurm the buffer runs on the first node of the component learner"):
        rendered(cfg, settings={"buffer": {"time": "1"}})


def test_a_missing_prompt_file_is_told_before_the_job_waits(cfg: Config) -> None:
    Path("prompts.jsonl").unlink()
    with pytest.raises(DataError, match=r"prompts.jsonl: no such prompt file here"):
        rendered(cfg)

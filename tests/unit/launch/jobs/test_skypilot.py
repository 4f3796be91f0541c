"""`prolong launch skypilot`: the job group by SkyPilot's own parser, and what its tasks will run."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prolong.common.errors import UserError
from prolong.common.transport.keys import load_buffer_keys, load_client_keys
from prolong.launch.cli import main
from prolong.launch.recipes import compose

Task = dict[str, Any]

ROOT = Path(__file__).resolve().parents[4]
SKY = ROOT / ".venv-skypilot" / "bin" / "python"  # made by `make skypilot`
PARSE = """\
import sys
from sky.utils import dag_utils
assert dag_utils.is_job_group_yaml(sys.argv[1])
group = dag_utils.load_job_group_from_yaml(sys.argv[1])
print(group.name, group.primary_tasks, group.termination_delay)
for task in group.tasks:
    (resources,) = task.resources
    print(task.name, task.num_nodes, resources.accelerators, resources.use_spot, sorted(task.secrets))
"""


def launch(folder: Path, *arguments: str, recipe: str = "demo_pools") -> tuple[Task, dict[str, Task]]:
    """The header, and the tasks by their names."""
    given = ["--out", str(folder), "--set", "image=registry/prolong:7", *arguments]
    assert main(["launch", "skypilot", recipe, *given]) == 0
    assert (folder / "run.sky.yaml").stat().st_mode & 0o777 == 0o600
    header, *tasks = yaml.safe_load_all((folder / "run.sky.yaml").read_text())
    return header, {task["name"]: task for task in tasks}


def run_task(task: Task, folder: Path, prolong: str = 'printf "%s\\n" "$@"') -> subprocess.CompletedProcess[str]:
    """Run a task's script as SkyPilot would on its first node, with a `prolong` that runs the given code."""
    (folder / "bin").mkdir(parents=True, exist_ok=True)
    (folder / "bin" / "prolong").write_text(f"#!/bin/sh\n{prolong}\n")
    (folder / "bin" / "prolong").chmod(0o755)
    environment = {
        **{"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "HOME": str(folder)},
        **{"SKYPILOT_NODE_RANK": "0", "SKYPILOT_NODE_IPS": "10.0.0.7\n10.0.0.8"},
        **task["secrets"],
    }
    script = task["run"].replace("/runs", f"{folder}/runs")
    return subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.skipif(not SKY.exists(), reason="no SkyPilot here: `make skypilot` installs it in an environment of its own")
def test_skypilot_reads_the_job_group_as_it_is_meant(tmp_path: Path) -> None:
    given = ("model=m", "launch.learner_ranks=4", "launch.actors=2", "--learner-nodes", "2", "--set", "gpu=H100")
    launch(tmp_path, *given, "--set", "spot=true", recipe="prorl_1_5b")
    environment = {"HOME": str(tmp_path), "PATH": os.environ["PATH"], "SKYPILOT_DISABLE_USAGE_COLLECTION": "1"}
    command = [str(SKY), "-c", PARSE, str(tmp_path / "run.sky.yaml")]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    printed = result.stdout.splitlines()[-5:]
    assert printed == [
        "prorl-1-5b ['learner'] 60s",
        "buffer 1 None False ['PROLONG_CLIENT_KEY', 'PROLONG_SERVER_KEY']",
        "learner 2 {'H100': 4} False ['PROLONG_CLIENT_KEY']",
        "actors-0 1 {'H100': 1} True ['PROLONG_CLIENT_KEY']",
        "actors-1 1 {'H100': 1} True ['PROLONG_CLIENT_KEY']",
    ]


def test_the_group_ends_with_the_learner_and_actors_are_recovered_one_by_one(tmp_path: Path) -> None:
    header, tasks = launch(tmp_path, "pools.large.count=2")
    assert header == {
        **{"name": "demo-pools", "execution": "parallel", "primary_tasks": ["learner"], "termination_delay": "60s"}
    }
    assert list(tasks) == ["buffer", "learner", "large-0", "large-1", "small-0"]


@pytest.mark.parametrize(
    ("name", "loads"), [("buffer", load_buffer_keys), ("learner", load_client_keys), ("small-0", load_client_keys)]
)
def test_each_task_writes_configuration_and_keys_that_prolong_takes(tmp_path: Path, name: str, loads: Any) -> None:
    _, tasks = launch(tmp_path / "launch", "--learner-nodes", "2")
    home = tmp_path / "home"
    (home / "runs" / "demo-pools").mkdir(parents=True)
    (home / "runs" / "demo-pools" / "summary.json").touch()
    result = run_task(tasks[name], home)
    assert result.returncode == 0, result.stderr
    folder = home / "prolong-launch"
    assert loads(str(folder / "keys")) is not None
    role, *arguments = result.stdout.splitlines()
    settings = [each for each in arguments if "=" in each]
    cfg = compose(str(folder / "config.yaml"), settings)
    assert cfg.buffer.keys == str(folder / "keys")
    assert cfg.weights.host == ("127.0.0.1" if name == "buffer" else "10.0.0.7")
    assert cfg.buffer.address == ("tcp://0.0.0.0:5710" if name == "buffer" else "tcp://buffer-0.demo-pools:5710")
    assert role == name.replace("small-0", "actor")
    if role == "learner":
        assert " ".join(arguments).startswith("--nodes 2 --node-rank 0 --rendezvous learner-0.demo-pools:29500 ")
    if role == "actor":
        assert arguments[:2] == ["--pool", "small"]


@pytest.mark.parametrize(("code", "expected"), [("exit 0", 143), ("mkdir -p RUN; touch RUN/summary.json", 0), ("exit 2", 2)])
def test_a_learner_that_was_told_to_leave_is_started_again(tmp_path: Path, code: str, expected: int) -> None:
    _, tasks = launch(tmp_path / "launch")
    assert run_task(tasks["learner"], tmp_path, code.replace("RUN", f"{tmp_path}/runs/demo-pools")).returncode == expected
    assert tasks["learner"]["resources"]["job_recovery"] == {"max_restarts_on_errors": 3, "recover_on_exit_codes": [143]}


def test_spot_machines_are_for_actors_unless_a_component_is_named(tmp_path: Path) -> None:
    _, tasks = launch(tmp_path, "--set", "spot=true")
    assert [name for name, task in tasks.items() if task["resources"]["use_spot"]] == ["large-0", "small-0"]
    _, tasks = launch(
        tmp_path, "--set", "learner:spot=true", "--set", "learner:volume./runs=disk", "--set", "mount./m=s3://b/m"
    )
    assert [name for name, task in tasks.items() if task["resources"]["use_spot"]] == ["learner"]
    assert tasks["learner"]["volumes"] == {"/runs": "disk"}
    assert tasks["small-0"]["file_mounts"] == {"/m": "s3://b/m"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "image=", "--set", "setup="], "--set image=NAME, or --set setup=COMMAND, is missing"),
        (["model.device=auto"], "--set learner:gpu=NAME is missing"),
        (["--set", "disk=1.5TB"], "--set disk=1.5TB: expected a whole number of GB"),
        (["run.name=..."], "run.name = '...'"),
        (["--set", "small:spot=yes"], "--set spot=yes: expected true or false"),
        (["--set", "gpus=1"], "--set gpus: SkyPilot has no such setting"),
    ],
)
def test_what_skypilot_cannot_take_is_refused_in_a_sentence(
    tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--out", str(tmp_path), "--set", "image=x", *arguments]
    assert main(["launch", "skypilot", "demo_pools", *given]) == UserError.exit_code
    assert message in capsys.readouterr().err

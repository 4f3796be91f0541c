"""The Python door with scripts in place of the processes of a run; examples/train_from_python.py has a real one."""

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from prolong.common.config.run_files import RunPaths, load_config
from prolong.common.config.sections import Config
from prolong.common.errors import ConfigError, DataError, DeadlineExceeded, UserError
from prolong.launch.local import train as local
from prolong.launch.local.process import ChildProcess
from prolong.launch.python import RunFailed, open_run, start, train

from tests.support.runs import wait_until

Scripts = Callable[[str], None]


@pytest.fixture
def settings(tmp_path: Path, demo_model: Path) -> dict[str, object]:
    return {"run.root": tmp_path / "runs", "run.name": "mine", "model": demo_model, "buffer.address": "tcp://127.0.0.1:0"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "mine"


@pytest.fixture
def learner(monkeypatch: pytest.MonkeyPatch) -> Scripts:
    """Makes the processes of the next run a waiting buffer and a learner that is this shell script."""

    def use(script: str) -> None:
        def processes(cfg: Config, paths: RunPaths) -> list[ChildProcess]:
            scripts = {"buffer": "until test -f $FOLDER/summary.json; do sleep 0.02; done", "learner": script}
            env = {"PATH": "/usr/bin:/bin", "FOLDER": str(paths.folder)}
            return [ChildProcess(name, ["sh", "-c", text], env=env, log=paths.logs / name) for name, text in scripts.items()]

        monkeypatch.setattr(local, "run_processes", processes)

    use("echo '{\"steps\": 3}' > $FOLDER/summary.json")
    return use


PROMPTS = [{"prompt": f"What is {i}+1?", "answer": {"sum": i + 1}} for i in range(3)]


def own(completion: str, answer: dict) -> float:
    return 1.0


def test_prompts_and_rewards_become_the_files_and_settings_of_the_run(
    settings: dict[str, object], folder: Path, learner: Scripts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rewards.py").write_text("def far(completion, answer):\n    return 0.0\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    rewards = {"near": own, "far": "rewards:far"}
    records = [{**prompt, "verifier": "near"} for prompt in PROMPTS]
    run = train("demo", settings, rewards=rewards, prompts=records, heldout=records[:1], show=False)
    assert run.folder == folder
    assert run.summary() is not None
    cfg = load_config(folder / "config.yaml")
    assert [source.file for source in cfg.data.train] == [str(folder / "prompts" / "train.jsonl")]
    assert len((folder / "prompts" / "heldout.jsonl").read_text().splitlines()) == 1
    assert cfg.verifiers.own["far"] == "rewards:far"
    assert cfg.verifiers.own["near"].startswith("unix:/")
    assert cfg.run.name == "mine"


def test_the_command_is_the_function(
    settings: dict[str, object], folder: Path, learner: Scripts, demo_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from prolong.launch.cli import dispatch

    overrides = [f"{key}={value}" for key, value in settings.items()]
    overrides += [f"data.{name}=[{{file: {demo_model / name}.jsonl}}]" for name in ("train", "heldout")]
    assert dispatch(["train", "--recipe", "demo", *overrides]) == 0
    assert "3 steps in" in capsys.readouterr().out
    learner("echo broken; exit 7")
    assert dispatch(["train", "--recipe", "demo", *overrides, "run.name=other", "launch.max_restarts=0"]) == 1
    captured = capsys.readouterr()
    assert "  | broken\nprolong train: learner ended with code 7" in captured.err
    assert f"resume with: prolong train --recipe {folder.parent / 'other' / 'config.yaml'}" in captured.out


def test_a_run_that_fails_raises_with_the_end_of_the_log(settings: dict[str, object], learner: Scripts) -> None:
    learner("echo the disk is gone; exit 7")
    with pytest.raises(RunFailed, match=r"mine: learner ended with code 7(.|\n)*the disk is gone") as caught:
        train("demo", settings | {"launch.max_restarts": 0}, rewards={"own": own}, prompts=PROMPTS, show=False)
    assert caught.value.exit_code == 1
    assert caught.value.run.metrics() == []


def test_under_a_running_event_loop_the_run_has_a_thread(settings: dict[str, object], learner: Scripts) -> None:
    async def cell() -> Path:
        return train("demo", settings, rewards={"own": own}, prompts=PROMPTS, show=False).folder

    assert (asyncio.run(cell()) / "summary.json").exists()


def test_a_run_in_the_background_can_be_waited_for_and_stopped(
    settings: dict[str, object], folder: Path, learner: Scripts
) -> None:
    learner("touch $FOLDER/began; exec sleep 600")
    background = start("demo", settings, rewards={"own": own}, prompts=PROMPTS)
    wait_until("the learner", (folder / "began").exists, 60)
    with pytest.raises(DeadlineExceeded, match="it goes on"):
        background.wait(0.0)
    assert background.running
    background.stop()
    assert not background.running
    with pytest.raises(RunFailed, match="stopped by SIGINT"):
        background.wait()


def test_a_run_that_does_not_end_when_it_is_told_to_is_not_waited_for_for_ever(
    settings: dict[str, object], folder: Path, learner: Scripts, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner("touch $FOLDER/began; exec sleep 600")
    background = start("demo", settings | {"launch.stop_s": 0.2}, rewards={"own": own}, prompts=PROMPTS)
    wait_until("the learner", (folder / "began").exists, 60)
    with monkeypatch.context() as patch:
        patch.setattr("prolong.launch.python.STOP_GRACE_S", 0.0)
        patch.setattr(local.RunHere, "stop", lambda here: None)
        with pytest.raises(DeadlineExceeded, match=r"has not ended 0\.2 s after it was told to"):
            background.stop()
    background.stop()


def test_interrupting_a_cell_stops_its_run(
    settings: dict[str, object], folder: Path, learner: Scripts, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner("touch $FOLDER/began; exec sleep 600")
    background = start("demo", settings, rewards={"own": own}, prompts=PROMPTS)
    wait_until("the learner", (folder / "began").exists, 60)
    joins = iter([KeyboardInterrupt])
    join = threading.Thread.join

    def interrupted(thread: threading.Thread, timeout: float | None = None) -> None:
        # Ctrl-C interrupts the main thread alone
        if threading.current_thread() is threading.main_thread():
            for error in joins:
                raise error
        join(thread, timeout)

    monkeypatch.setattr(threading.Thread, "join", interrupted)
    with pytest.raises(KeyboardInterrupt):
        background.wait()
    assert not background.running


ENDS_EARLY = """
import json, sys
from pathlib import Path
from prolong.launch.local import train as local
from prolong.launch.local.process import ChildProcess
from prolong.launch.python import start
from tests.support.runs import wait_until

settings = json.loads(sys.argv[1])
def processes(cfg, paths):
    script = "echo $$ > $FOLDER/$0.pid; exec sleep 600"
    env = {"PATH": "/usr/bin:/bin", "FOLDER": str(paths.folder)}
    return [ChildProcess(name, ["sh", "-c", script, name], env=env, log=paths.logs / name) for name in ("buffer", "learner")]
local.run_processes = processes
folder = start("demo", settings, prompts=[{"prompt": "?", "verifier": "math", "answer": "1"}]).run.folder
wait_until("both processes", lambda: len([pid for pid in folder.glob("*.pid") if pid.read_text()]) == 2, 60)
"""


def test_a_program_that_ends_takes_its_run_with_it(settings: dict[str, object], folder: Path) -> None:
    given = json.dumps({key: str(value) for key, value in settings.items()})
    subprocess.run([sys.executable, "-c", ENDS_EARLY, given], check=True, timeout=200, cwd=Path(__file__).parents[3])
    pids = [int(file.read_text()) for file in folder.glob("*.pid")]
    assert len(pids) == 2
    wait_until("the end of what was started", lambda: not any(map(lives, pids)), 60)


def lives(pid: int) -> bool:
    """Not so a process that has ended and waits for init, which some containers lack, to ask for its exit code."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_two_runs_at_once_have_threads_and_folders_of_their_own(settings: dict[str, object], learner: Scripts) -> None:
    runs = [start("demo", settings | {"run.name": name}, rewards={"own": own}, prompts=PROMPTS) for name in ("one", "two")]
    assert [run.wait(60).folder.name for run in runs] == ["one", "two"]
    assert "run one" not in {thread.name for thread in threading.enumerate()}


def test_mistakes_are_said_before_a_process_starts(settings: dict[str, object], folder: Path, learner: Scripts) -> None:
    with pytest.raises(ConfigError, match=r"buffer\.etta"):
        train("demo", settings | {"buffer.etta": 1})
    with pytest.raises(ConfigError, match="expected a mapping such as"):
        train("demo", "run.name=mine")
    with pytest.raises(ConfigError, match=r"run\.name\.first = 'x'"):
        train("demo", settings | {"run.name.first": "x"})
    with pytest.raises(DataError, match=r"data\.train = "):
        train("demo", settings, rewards={"own": own}, prompts=[])
    with pytest.raises(UserError, match="unknown verifier 'another'"):
        train("demo", settings, rewards={"own": own}, prompts=[{**PROMPTS[0], "verifier": "another"}])
    assert not (folder / "config.yaml").exists()


def test_a_preset_lies_under_the_settings(settings: dict[str, object], folder: Path, learner: Scripts) -> None:
    given = settings | {"preset": "dapo", "objective.clip_high": 0.31}
    train("demo", given, rewards={"own": own}, prompts=PROMPTS, show=False)
    assert load_config(folder / "config.yaml").objective.clip_high == 0.31


def test_a_run_that_was_recorded_is_opened_by_its_folder(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "reward/mean": 0.5}\n{"step": 2, "reward/mean": null}\n{"st')
    run = open_run(str(tmp_path))
    assert run.series("reward/mean") == [(1, 0.5)]
    assert run.summary() is None
    assert run.status()["state"] == "stopped"
    assert run.checkpoints() == {}
    (tmp_path / "summary.json").write_text(json.dumps({"steps": 2, "ledger": {"trained": 8}}))
    assert run.status()["state"] == "ended"

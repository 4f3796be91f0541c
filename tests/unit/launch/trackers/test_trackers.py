"""Trackers: what is copied, what happens when one fails or hangs, and the real packages in their local modes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from prolong.common.config.run_files import RunPaths, run_paths, save_config
from prolong.common.config.sections import Config, ModelConfig, RunConfig
from prolong.common.errors import UserError
from prolong.common.metrics import MetricsWriter
from prolong.launch.cli import main
from prolong.launch.trackers import process, services
from prolong.launch.trackers.api import TrackedRun
from prolong.launch.trackers.companions import Companion, companions_beside, companions_of
from prolong.launch.trackers.follow import RecordFollower
from prolong.launch.trackers.services import Service, check_trackers

from tests.support.runs import wait_until

ROOT = Path(__file__).resolve().parents[4]
REAL = ROOT / ".venv-trackers" / "bin" / "python"  # made by `make trackers`


def write_steps(run: RunPaths, first: int, last: int, resume: int | None = None) -> None:
    with MetricsWriter(run.folder, resume_step=first - 1 if resume is None else resume, tensorboard=False) as writer:
        for step in range(first, last + 1):
            writer.write(step, {"reward/mean": step / 10, "reference/kl": float("nan")})


def make_run(folder: Path, trackers: dict[str, dict[str, object]]) -> RunPaths:
    cfg = Config(run=RunConfig(name="mine", root=str(folder)), model=ModelConfig(path="m"), trackers=trackers)
    save_config(cfg, run_paths(cfg).config)
    return run_paths(cfg)


class Remembers:
    """A tracker that keeps what it is given, and fails at a step."""

    identity = "abc"

    def __init__(self, run: TrackedRun, fails_at: int = -1) -> None:
        self.run, self.fails_at = run, fails_at
        self.steps: dict[int, Mapping[str, float]] = {}
        self.closed = False

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        if step == self.fails_at:
            raise ConnectionError("the service is down")
        self.steps[step] = numbers

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Remembers]:
    """What was opened as `wandb`; the first one fails at step 3."""
    trackers: list[Remembers] = []

    def open_it(run: TrackedRun) -> Remembers:
        trackers.append(Remembers(run, fails_at=-1 if trackers else 3))
        return trackers[-1]

    monkeypatch.setitem(services.SERVICES, "wandb", Service("json", open_it))
    return trackers


def test_a_follower_gives_each_step_once_whatever_happens_to_the_file(tmp_path: Path) -> None:
    run = make_run(tmp_path, {})
    follower = RecordFollower(run.metrics, last=0)
    assert follower.take() == []
    write_steps(run, 1, 3)
    assert [record["step"] for record in follower.take()] == [1, 2, 3]
    # a line that is being written
    with run.metrics.open("ab") as file:
        file.write(b'{"step": 4, "reward')
        file.flush()
        assert follower.take() == []
        file.write(b'/mean": 0.4}\n')
    assert [record["step"] for record in follower.take()] == [4]
    # a learner that resumes from version 2 writes the file again, and the same steps
    write_steps(run, 3, 6, resume=2)
    assert [record["step"] for record in follower.take()] == [5, 6]
    assert follower.take() == []


def test_a_tracker_goes_on_behind_a_broken_line_and_its_log_says_so(
    tmp_path: Path, opened: list[Remembers], caplog: pytest.LogCaptureFixture
) -> None:
    run = make_run(tmp_path, {"wandb": {}})
    write_steps(run, 1, 1)
    with run.metrics.open("ab") as file:
        file.write(b'\x00\xff\n{"step": 2, "reward/mean": 0.2}\n')
    process.copy_records(run, "wandb", lambda _: False)
    assert list(opened[0].steps) == [1, 2]
    assert [", line 2: " in text for text in caplog.messages] == [True]


def test_what_a_failed_tracker_lacks_the_next_process_sends(tmp_path: Path, opened: list[Remembers]) -> None:
    run = make_run(tmp_path, {"wandb": {"project": "p"}})
    write_steps(run, 1, 2)
    process.copy_records(run, "wandb", lambda _: False)
    write_steps(run, 3, 5)
    assert opened[0].steps == {1: {"reward/mean": 0.1}, 2: {"reward/mean": 0.2}}
    process.copy_records(run, "wandb", lambda _: False)
    assert (list(opened[1].steps), opened[1].closed) == ([3, 4, 5], True)
    assert (opened[0].run.identity, opened[1].run.identity) == ("", "abc")
    assert opened[1].run.config["trackers"] == {"wandb": {"project": "p"}}


def test_a_service_that_is_down_loses_nothing(tmp_path: Path, opened: list[Remembers], capsys: pytest.CaptureFixture) -> None:
    run = make_run(tmp_path, {"wandb": {}})
    write_steps(run, 1, 4)
    with pytest.raises(ConnectionError):
        process.copy_records(run, "wandb", lambda _: False)
    assert main(["track", str(run.folder)]) == 0
    # of the failed process no progress was noted
    assert list(opened[1].steps) == [1, 2, 3, 4]
    assert capsys.readouterr().out == "wandb: steps 1 to 4\n"
    assert main(["track", str(run.folder)]) == 0
    assert capsys.readouterr().out == "wandb: has all 4 steps\n"


def test_two_processes_do_not_send_to_the_same_tracker(
    tmp_path: Path, opened: list[Remembers], capsys: pytest.CaptureFixture
) -> None:
    """A learner that is resumed at once starts one while that of before still sends the rest."""
    run = make_run(tmp_path, {"wandb": {}})
    write_steps(run, 1, 2)
    codes: list[int] = []

    def meanwhile(_: float) -> bool:
        codes.append(main(["track", str(run.folder)]))
        return False

    process.copy_records(run, "wandb", meanwhile)
    assert (codes, len(opened)) == ([UserError.exit_code], 1)
    assert "another process sends this run to wandb" in capsys.readouterr().err
    assert main(["track", str(run.folder)]) == 0


def test_the_process_copies_until_its_input_ends_and_ignores_the_signals_of_the_learner(tmp_path: Path) -> None:
    run = make_run(tmp_path, {"fake": {"file": str(tmp_path / "got")}})
    write_steps(run, 1, 2)
    code = (
        "import sys, signal; from prolong.launch.trackers import process, services\n"
        "class T:\n"
        "    identity = 'x'\n"
        "    def __init__(self, run): self.file = open(run.arguments['file'], 'a')\n"
        "    def write(self, step, numbers): print(step, file=self.file, flush=True); print('wrote', flush=True)\n"
        "    def close(self): print('closed', file=self.file, flush=True)\n"
        "services.SERVICES['fake'] = services.Service('json', T); process.POLL_S = 0.05\n"
        "raise SystemExit(process.main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, str(run.folder), "fake"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdout.readline()
        child.send_signal(signal.SIGTERM)
        child.send_signal(signal.SIGINT)
        write_steps(run, 3, 3)
        child.stdin.close()
        assert child.wait(60) == 0
    assert (tmp_path / "got").read_text().split() == ["1", "2", "3", "closed"]


def companion(tmp_path: Path, code: str) -> Companion:
    return Companion("x", [sys.executable, "-c", code], tmp_path)


def test_a_tracker_that_fails_is_started_again_and_the_learner_hears_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("prolong.launch.trackers.companions.PAUSE_S", 0.01)
    count = tmp_path / "count"
    code = f"open({str(count)!r}, 'a').write('x'); raise SystemExit(0 if len(open({str(count)!r}).read()) > 2 else 7)"
    tracker = companion(tmp_path, code)
    tracker.start()
    assert tracker.join(60)
    assert (count.read_text(), tracker.num_failures) == ("xxx", 2)
    assert "tracker x failed (exit code 7), the run goes on" in caplog.text


def test_a_tracker_that_fails_for_weeks_is_still_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prolong.launch.trackers.companions.PAUSE_S", 0.0)
    tracker = companion(tmp_path, "")
    monkeypatch.setattr(tracker, "_run", lambda: 7 if tracker.num_failures < 1100 else 0)
    tracker.start()
    assert tracker.join(60)
    assert tracker.num_failures == 1100


def test_a_tracker_that_hangs_holds_up_nobody(tmp_path: Path) -> None:
    # it does not even look at its input
    tracker = companion(tmp_path, "import time; time.sleep(600)")
    with companions_beside([tracker], hurried=[signal.SIGTERM]):
        wait_until("the tracker's process", lambda: tracker.pid, 60)
    assert not tracker.join(0)
    os.kill(tracker.pid, signal.SIGKILL)
    assert tracker.join(60)


def test_a_tracker_whose_program_is_missing_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prolong.launch.trackers.companions.PAUSE_S", 0.01)
    tracker = Companion("x", [str(tmp_path / "nothing")], tmp_path)
    with companions_beside([tracker], hurried=[], flush_s=30):
        pass
    assert tracker.join(0)


def test_a_run_without_trackers_starts_none(tmp_path: Path) -> None:
    assert companions_of(Config(run=RunConfig(root=str(tmp_path)), model=ModelConfig(path="m"))) == []


@pytest.mark.parametrize(
    ("trackers", "message"),
    [
        ({"wandbb": {}}, "trackers.wandbb = {}: expected one of wandb, trackio, mlflow"),
        ({"wandb": {}}, "trackers.wandb: the package no_wandb is not installed here: pip install no_wandb"),
    ],
)
def test_a_tracker_that_cannot_be_is_refused_before_anything_starts(
    trackers: dict[str, dict[str, object]], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # whoever runs this may have the real one
    monkeypatch.setitem(services.SERVICES, "wandb", Service("no_wandb", Remembers))
    with pytest.raises(UserError, match=message):
        check_trackers(Config(model=ModelConfig(path="m"), trackers=trackers))


# --- the real packages, in an environment of their own ---

READ_TRACKIO = """\
import json, sys
from trackio.sqlite_storage import SQLiteStorage as storage
rows = [row for run in storage.get_runs("mine") for row in storage.get_logs("mine", run)]
print(json.dumps({row["step"]: row["reward/mean"] for row in rows}))
"""
READ_MLFLOW = """\
import json, sys
from mlflow.tracking import MlflowClient
client = MlflowClient(sys.argv[1])
(run,) = client.search_runs([client.get_experiment_by_name("mine").experiment_id])
print(json.dumps({point.step: point.value for point in client.get_metric_history(run.info.run_id, "reward/mean")}))
"""
# its file of an offline run: records in blocks of 32 KB, as LevelDB has them
READ_WANDB = """\
import glob, json, struct, sys
from wandb.proto import wandb_internal_pb2 as pb

def records(data):
    at, whole = 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        _, size, kind = struct.unpack("<IHB", data[at : at + 7])
        if not kind:
            break
        whole = (whole if kind in (3, 4) else b"") + data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):
            yield whole

found = {}
for file in glob.glob(sys.argv[1] + "/wandb/offline-run-*/*.wandb"):
    for data in records(open(file, "rb").read()):
        record = pb.Record.FromString(data)
        items = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        if "reward/mean" in items: found[items.get("_step", record.history.step.num)] = items["reward/mean"]
print(json.dumps(found))
"""
LOCAL = {
    "trackio": ({"project": "mine"}, READ_TRACKIO),
    "mlflow": ({"experiment": "mine"}, READ_MLFLOW),
    "wandb": ({"project": "mine", "mode": "offline"}, READ_WANDB),
}


@pytest.mark.skipif(not REAL.exists(), reason="no trackers here: `make trackers` installs them in an environment of their own")
@pytest.mark.parametrize("name", LOCAL)
def test_the_real_package_holds_every_step_also_after_a_restart(tmp_path: Path, name: str) -> None:
    arguments, read = LOCAL[name]
    store = f"sqlite:///{tmp_path}/mlflow.db" if name == "mlflow" else str(tmp_path / "mine")
    run = make_run(tmp_path, {name: {**arguments, **({"tracking_uri": store} if name == "mlflow" else {})}})
    own = {"HOME": str(tmp_path), "PYTHONPATH": str(ROOT / "typings"), "WANDB_MODE": "offline", "HF_HUB_OFFLINE": "1"}
    environment = os.environ | own | {"TRACKIO_DIR": str(tmp_path / "trackio")}
    for first, last in ((1, 3), (4, 6)):
        write_steps(run, first, last)
        command = [str(REAL), "-m", process.__name__, str(run.folder), name]
        result = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=280, check=False
        )
        assert result.returncode == 0, result.stderr
        assert json.loads((run.folder / "trackers" / f"{name}.json").read_text())["step"] == last
    found = subprocess.run(
        [str(REAL), "-c", read, store], env=environment, capture_output=True, text=True, timeout=120, check=True
    )
    held = json.loads(found.stdout.splitlines()[-1])
    assert {int(step): value for step, value in held.items()} == {step: step / 10 for step in range(1, 7)}

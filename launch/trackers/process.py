"""The process of one tracker: python -m prolong.launch.trackers.process RUN NAME.

It copies what metrics.jsonl has and gets until its standard input ends; then it sends the rest and leaves. How far it came
stands in RUN/trackers/NAME.json, where the next process goes on. A package that hangs, crashes or takes signals does so here.
"""

from __future__ import annotations

import contextlib
import fcntl
import select
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from ...common.config.run_files import RunPaths, load_config
from ...common.config.trees import to_tree
from ...common.errors import UserError
from ...common.files import write_atomically
from ...common.metrics import StepNumbers
from .api import TrackedRun, Tracker
from .follow import RecordFollower
from .services import SERVICES

POLL_S = 2.0  # between two looks at the file
CALL_S = 300  # a call of the package that takes longer ends the process
LEAVE_S = 60  # from the end of standard input to that of the process, whatever is left


class TrackerProgress(msgspec.Struct, kw_only=True):
    """How far a tracker came; RUN/trackers/NAME.json."""

    step: int = 0  # of the last record that was written
    identity: str = ""


def progress_path(run: RunPaths, name: str) -> Path:
    return run.folder / "trackers" / f"{name}.json"


def read_progress(path: Path) -> TrackerProgress:
    """Of a run that was not tracked before: nothing done."""
    return msgspec.json.decode(path.read_bytes(), type=TrackerProgress) if path.exists() else TrackerProgress()


def copy_records(run: RunPaths, name: str, goes_on: Callable[[float], bool]) -> None:
    """Copy records while `goes_on`, which waits the given seconds, is true; then what is left.

    Raises: UserError while another process copies to this tracker; whatever the package does. A call that does not return
    within CALL_S ends the process by SIGALRM.
    """
    cfg, path = load_config(run.config), progress_path(run, name)
    path.parent.mkdir(exist_ok=True)
    with _alone(path.with_suffix(".lock"), name):
        done = read_progress(path)
        about = TrackedRun(
            name=cfg.run.name, folder=str(run.folder), config=to_tree(cfg), identity=done.identity, arguments=cfg.trackers[name]
        )
        signal.alarm(CALL_S)
        tracker = SERVICES[name].open(about)
        done.identity = tracker.identity
        follower = RecordFollower(run.metrics, done.step)
        while True:
            more = goes_on(POLL_S)
            _write(tracker, follower.take(), done, path)
            if not more:
                break
        signal.alarm(LEAVE_S)
        tracker.close()
        signal.alarm(0)


@contextlib.contextmanager
def _alone(path: Path, name: str) -> Iterator[None]:
    """Keep other processes out: the one that an interrupted learner left behind, or `prolong track`, would send steps twice."""
    with path.open("w") as lock:
        # where the file system has no locks, nobody gets one
        with contextlib.suppress(OSError):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(
                    f"{path}: another process sends this run to {name}; what it leaves can be sent when it has ended"
                ) from None
        yield


def _write(tracker: Tracker, records: list[StepNumbers], done: TrackerProgress, path: Path) -> None:
    for record in records:
        step = int(record["step"])
        signal.alarm(CALL_S)
        tracker.write(step, {key: value for key, value in record.items() if key != "step"})
        done.step = step
    signal.alarm(0)
    if records or not path.exists():
        write_atomically(path, msgspec.json.encode(done))


def main(argv: list[str]) -> int:
    # signals are for the learner beside it; the end of standard input is for this process
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    folder, name = argv
    copy_records(RunPaths(Path(folder)), name, lambda wait_s: not select.select([sys.stdin], [], [], wait_s)[0])
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

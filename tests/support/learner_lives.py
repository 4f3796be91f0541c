"""Lives of a learner on recorded batches, each a forked process that may be killed: tests/chaos/test_learner_kills.py.

    python -m tests.support.learner_lives learn MODEL FOLDER SEED KILLS STEPS    prints how every life ended, as JSON
    python -m tests.support.learner_lives save MODEL FOLDER                      prints what every death left, as JSON

This process imports everything once and stays single-threaded: a fork of it starts in milliseconds.
"""

from __future__ import annotations

import json
import os
import random
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from prolong.buffer.journal.journal import read_journal
from prolong.common.config.run_files import find_checkpoints, run_paths
from prolong.common.config.sections import Config
from prolong.common.types import Batch
from prolong.learner.checkpoints.checkpoint import MODEL, REFERENCE, TRAINER, LearnerState, find_newest, read_state
from prolong.learner.checkpoints.saver import Checkpointer
from prolong.learner.main import Learner
from prolong.learner.ranks import Ranks
from prolong.learner.source.recorded import RecordedBatches, RecordedSource
from safetensors.torch import load_file

from tests.support.batches import make_trainer, small_config
from tests.support.recorded_run import SWEEP, record_history, recorded_batch, staged_config
from tests.support.runs import wait_until

POLL_S = 0.0005
LIFE_S = 200.0  # a life takes no longer
BEYOND = 2 * SWEEP  # steps that a life makes beyond the one at which it is to be killed, if the kill comes late
FILE_EVENTS = ("open", "os.mkdir", "os.link", "os.listdir", "os.scandir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree")
NUM_EVENTS = 34  # of the thread that writes a checkpoint and removes another, at least


@dataclass(slots=True)
class Life:
    """What became of a process."""

    kill: str  # when it was to be killed: start, step, scratch, write; "" for never
    at: int  # ... not before this step
    exit_code: int  # -9: killed
    resumed: int  # version that it began with
    newest: int  # newest whole checkpoint that it left
    step: int  # last step that it recorded
    torn: bool  # whether it died while a checkpoint was written or removed


@dataclass(slots=True)
class Trap:
    """An audit hook: kill -9 at the nth file operation of the thread that writes the first checkpoint not before `at`."""

    at: int
    nth: int

    def __call__(self, event: str, _: Any) -> None:
        if event not in FILE_EVENTS:
            return
        name = threading.current_thread().name
        if name.startswith("checkpoint-") and int(name.removeprefix("checkpoint-")) >= self.at:
            self.nth -= 1
            if self.nth <= 0:
                os.kill(os.getpid(), signal.SIGKILL)


def be_born(work: Callable[[], None], log: Path) -> int:
    """Fork; the child does `work` and exits: its pid."""
    # a fork of a process with other threads could hang; those with which transformers loads a model end soon after
    wait_until("a process with one thread", lambda: len(os.listdir("/proc/self/task")) == 1, 30.0)
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


@dataclass(slots=True)
class HeldBatches:
    """Recorded batches, of which those from a version on never come: who asks for one waits to be killed."""

    recorded: RecordedBatches
    until: int

    def batch(self, version: int) -> Batch | None:
        if version >= self.until:
            threading.Event().wait(600)
        return self.recorded.batch(version)

    def versions(self) -> list[int]:
        return self.recorded.versions()

    def close(self) -> None:
        self.recorded.close()


def learn(cfg: Config, history: Path, until: int, trap: Trap | None = None) -> None:
    """One life, from the newest checkpoint on, to version `until` at most."""
    if trap is not None:
        sys.addaudithook(trap)
    torch.manual_seed(cfg.run.seed)
    source = RecordedSource(cfg, Ranks(), HeldBatches(read_journal(history), until), threading.Event())
    try:
        Learner.start(cfg, Ranks(), source, torch.device("cpu")).run()
    finally:
        source.close()


def last_step(metrics: Path, *, but: int = -1) -> int:
    """Of the last whole record; 0 while the file is still that of inode `but`, which a life replaces when it begins."""
    if not metrics.is_file() or metrics.stat().st_ino == but:
        return 0
    with metrics.open("rb") as file:
        file.seek(max(0, metrics.stat().st_size - (1 << 15)))
        lines = file.read().split(b"\n")[:-1]  # what follows the last newline is being written
    found = [line for line in lines if line.startswith(b'{"step":')]
    return int(found[-1].removeprefix(b'{"step":').split(b",")[0]) if found else 0


def torn(folder: Path, pid: int) -> bool:
    """Whether this process writes, or removes, a checkpoint."""
    names = os.listdir(folder) if folder.is_dir() else []
    return any(name.startswith(".step-") and str(pid) in name.split(".") for name in names)


def live(cfg: Config, history: Path, kill: str, at: int, chance: random.Random) -> Life:
    """Fork a learner, kill it at its moment, or let it run to its end."""
    paths = run_paths(cfg)
    paths.folder.mkdir(parents=True, exist_ok=True)
    metrics, log = paths.folder / "metrics.jsonl", paths.folder / "lives.log"
    before = metrics.stat().st_ino if metrics.exists() else -1
    resumed = max(find_checkpoints(paths.checkpoints), default=0)
    trap = Trap(at, chance.randrange(1, NUM_EVENTS)) if kill == "write" else None
    delay_s = {"start": 0.3, "step": 0.05, "scratch": 0.01}.get(kill, 0.0) * chance.random()
    until = min(at + BEYOND, cfg.run.steps - 1) if kill else cfg.run.steps
    pid = be_born(lambda: learn(cfg, history, until, trap), log)

    def is_due() -> bool:
        if kill not in ("step", "scratch"):
            return kill == "start"
        step = last_step(metrics, but=before)
        return step >= at and (kill == "step" or step >= until or torn(paths.checkpoints, pid))

    code = watch(pid, is_due, delay_s)
    newest = max(find_checkpoints(paths.checkpoints), default=0)
    return Life(kill, at, code, resumed, newest, last_step(metrics), torn(paths.checkpoints, pid))


def watch(pid: int, is_due: Callable[[], bool], delay_s: float) -> int:
    """Wait for the end of a child, and kill it when that is due: its exit code."""
    deadline = time.monotonic() + LIFE_S
    while time.monotonic() < deadline:
        select.select([], [], [], POLL_S)
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if is_due():
            select.select([], [], [], delay_s)
            break
    os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def whole(checkpoint: Path) -> bool:
    """Whether everything in it can be read."""
    read_state(checkpoint)
    return all(load_file(checkpoint / name) for name in (MODEL, TRAINER, REFERENCE))


def die_while_saving(model: Path, folder: Path) -> list[list[int]]:
    """Save again and again, killed at the first file operation, then at the second, until one survives.

    What was found after every death: versions of checkpoints, all of which can be read.
    """
    trainer = make_trainer(small_config(model), dtype=torch.float32)
    found: list[list[int]] = []

    def save(version: int, trap: Trap) -> None:
        saver = Checkpointer(folder, Ranks(), dtype="float32", source=model, keep=2, resumed=find_newest(folder))
        sys.addaudithook(trap)
        saver.save(LearnerState(version=version), trainer)
        saver.close()

    code = 0
    for version in range(1, 200):
        nth = max(1, version - 2)  # the first two live: there is something to lose
        trap = Trap(3, nth)
        code = watch(be_born(lambda v=version, t=trap: save(v, t), folder.with_suffix(".log")), lambda: False, 0.0)
        checkpoints = find_checkpoints(folder)
        assert sorted(folder.glob("step-*")) == list(checkpoints.values())
        assert all(map(whole, checkpoints.values()))
        found.append(list(checkpoints))
        if version > 2 and code == 0:
            return found
        assert code == (0 if version <= 2 else -signal.SIGKILL), folder.with_suffix(".log").read_text()
    raise AssertionError("no save survived")


def die_while_learning(model: Path, folder: Path, seed: int, kills: int, steps: int) -> list[Life]:
    """One life that nobody disturbs, in FOLDER/whole; then in FOLDER/killed as many as it takes, with KILLS deaths."""
    chance, history = random.Random(seed), folder / "history"
    record_history(history, [recorded_batch(version) for version in range(steps)])
    undisturbed, killed = (staged_config(model, folder / name, steps=steps) for name in ("whole", "killed"))
    lives = [live(undisturbed, history, "", steps, chance)]
    kinds = [("step", "write", "scratch", "write", "start", "step")[i % 6] for i in range(kills)]
    for i, kind in enumerate(kinds):
        at = 1 + round((steps - 2 * SWEEP) * (i + chance.random()) / kills)
        lives.append(live(killed, history, kind, at, chance))
    return [*lives, live(killed, history, "", steps, chance)]


def main(what: str, model: Path, folder: Path, *numbers: int) -> None:
    torch.set_num_threads(1)
    if what == "save":
        print(json.dumps(die_while_saving(model, folder)))
    else:
        print(json.dumps([asdict(life) for life in die_while_learning(model, folder, *numbers)]))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), *map(int, sys.argv[4:]))

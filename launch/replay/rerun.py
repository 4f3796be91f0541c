"""The learner on recorded batches: its process, and the program of each of its ranks. `prolong replay` starts it.

learner_process  --alone, or one per rank under torchrun-->  python -m prolong.launch.replay.rerun CONFIG RUN VERSION
                    from the newest checkpoint of CONFIG's folder, or from its model, to VERSION, on RUN's journal
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ...buffer.journal.journal import read_journal
from ...common.config.run_files import RunPaths, load_config, run_paths
from ...common.config.sections import Config
from ...common.signals import die_with_parent
from ..entry import end_process, exit_code_of, log_to_stderr
from ..gpus import visible_gpus
from ..local.process import ChildProcess
from ..local.train import process_environment
from ..placement import assign_gpus

if TYPE_CHECKING:
    from ...learner.ranks import Ranks

REPLAY_LEAVE_S = 60.0  # a learner that is asked to leave drops its step and saves within this


def learner_process(cfg: Config, run: RunPaths, until: int) -> ChildProcess:
    """The process, not started, with as many ranks as the run had: the order of sums, and so their last bits, depends on it.

    `cfg` names the folder of the replay, which holds its configuration and gets its log.
    """
    ranks, scratch = cfg.launch.learner_ranks, run_paths(cfg)
    # without a log folder, as in launch/torchrun.py
    agent = ["torch.distributed.run", "--standalone", "--log-dir", os.devnull, "--nproc-per-node", str(ranks), "-m"]
    rank = ["prolong.launch.replay.rerun", str(scratch.config), str(run.folder), str(until)]
    alone = replace(cfg, launch=replace(cfg.launch, actors=0))
    env = process_environment(cfg, assign_gpus(alone, visible_gpus(os.environ)).get("learner"))
    return ChildProcess(
        "learner", [sys.executable, "-m", *(agent if ranks > 1 else []), *rank], env=env, log=scratch.folder / "learner.log"
    )


@contextlib.contextmanager
def running(process: ChildProcess) -> Iterator[int]:
    """Start the process; yields its pidfd, which is readable once it has ended.

    At the end of the block the process is asked to save and leave, and then killed; after an error it is killed at once.
    """
    ending = process.start()
    try:
        yield ending
        process.terminate()
        select.select([ending], [], [], REPLAY_LEAVE_S)
    finally:
        process.kill_group()
        process.reap()
        os.close(ending)


def failure_reason(process: ChildProcess, code: int) -> str:
    """The sentence that the learner ended with, or the place to look for one."""
    said = [line for line in process.tail(200) if line.startswith("prolong replay: ")]
    return said[-1].removeprefix("prolong replay: ") if said else f"exit code {code}; {process.log} says more"


def train_recorded(cfg: Config, run: RunPaths, until: int) -> int:
    """Train as learner/main.py does, with the journal of `run` in place of a buffer. Raises: ProlongError."""
    from ...learner.main import main as learn
    from ...learner.source.recorded import NoBatches, RecordedSource, UpTo

    def make_source(cfg: Config, ranks: Ranks, stop: threading.Event) -> RecordedSource:
        recorded = UpTo(read_journal(run.journal), until) if ranks.first else NoBatches()
        return RecordedSource(cfg, ranks, recorded, stop)

    # the last step is saved wherever the replay stops: that checkpoint must not push out one that is compared
    cfg.checkpoint.keep += 1
    learn(cfg, make_source)
    return 0


def main(argv: list[str]) -> int:
    """One rank: CONFIG RUN VERSION. It ends when the process that started it ends."""
    die_with_parent()
    log_to_stderr()
    config, run, until = argv
    return exit_code_of("replay", lambda: train_recorded(load_config(Path(config)), RunPaths(Path(run)), int(until)))


if __name__ == "__main__":
    end_process(main(sys.argv[1:]))

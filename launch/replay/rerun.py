"""The learner on recorded batches: its process, and what each of its ranks does. `prolong replay` starts it.

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
from pathlib import Path
from typing import TYPE_CHECKING

from ...buffer.journal.journal import read_journal
from ...common.config.run_files import RunPaths, load_config, run_paths
from ...common.config.sections import Config
from ..entry import exit_code_of, log_to_stderr
from ..local.placement import assign_gpus, visible_gpus
from ..local.process import Process, die_with_parent
from ..local.train import process_environment

if TYPE_CHECKING:
    from ...learner.ranks import Ranks

REPLAY_LEAVE_S = 60.0  # a learner that is asked to leave finishes its step and saves within this


def learner_process(cfg: Config, run: RunPaths, until: int) -> Process:
    """With as many ranks as the run had: the order of sums, and so their last bits, depends on it.

    `cfg`: of the folder that it works in, where its configuration is and its log will be.
    """
    ranks, scratch = cfg.launch.learner_ranks, run_paths(cfg)
    torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), "-m"] if ranks > 1 else []
    rank = ["prolong.launch.replay.rerun", str(scratch.config), str(run.folder), str(until)]
    env = process_environment(cfg, assign_gpus(cfg, visible_gpus(os.environ)).get("learner"))
    return Process("learner", [sys.executable, "-m", *torchrun, *rank], env=env, log=scratch.folder / "learner.log")


@contextlib.contextmanager
def running(process: Process) -> Iterator[int]:
    """Its pidfd, readable when it has ended. At the end it is asked to leave, and saves; after an error it is killed."""
    ending = process.start()
    try:
        yield ending
        process.terminate()
        select.select([ending], [], [], REPLAY_LEAVE_S)
    finally:
        process.kill_group()
        process.reap()
        os.close(ending)


def failure_reason(process: Process, code: int) -> str:
    """The sentence that it died with, or where to look."""
    said = [line for line in process.tail(200) if line.startswith("prolong replay: ")]
    return said[-1].removeprefix("prolong replay: ") if said else f"exit code {code}; {process.log} says more"


def train_recorded(cfg: Config, run: RunPaths, until: int) -> None:
    """As learner/main.py does, with the journal of `run` in the place of a buffer. Raises: ProlongError."""
    from ...learner.main import main as learn
    from ...learner.source.recorded import NoBatches, RecordedSource, UpTo

    def make_source(cfg: Config, ranks: Ranks, stop: threading.Event) -> RecordedSource:
        recorded = UpTo(read_journal(run.journal), until) if ranks.first else NoBatches()
        return RecordedSource(cfg, ranks, recorded, stop)

    cfg.checkpoint.keep += 1  # the last one is saved wherever the run is to stop: it takes no other's place
    learn(cfg, make_source)


def main(argv: list[str]) -> int:
    """It dies with who started it."""
    die_with_parent()
    log_to_stderr()
    config, run, until = argv
    return exit_code_of("replay", lambda: train_recorded(load_config(Path(config)), RunPaths(Path(run)), int(until)) or 0)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

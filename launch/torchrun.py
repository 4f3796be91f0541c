"""`prolong learner`: torchrun around the learner's ranks.

    prolong learner  --launch()-->  torchrun's agent (this process)  --one per rank-->  python -m prolong.launch.torchrun CONFIG

The agent is torchrun's own, called as a function instead of as a command, because the command turns every exit code of a rank
into 1: a caller must be able to tell a mistake of the user (2) from a crash. There are no elastic restarts: whoever supervises
starts the whole learner again, which resumes from its newest checkpoint.
"""

from __future__ import annotations

import sys
from pathlib import Path

from ..common.compose import load, run_folder, save
from ..common.config import Config
from .cli import exit_code_of, log_to_stderr
from .process import die_with_parent


def launch(cfg: Config) -> int:
    """Run `launch.learner_ranks` ranks until they end; returns the exit code of the rank that failed first, or 0."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    path = run_folder(cfg) / "config.yaml"
    save(cfg, path)
    ranks = str(cfg.launch.learner_ranks)
    args = parse_args(["--standalone", "--nproc-per-node", ranks, "-m", "prolong.launch.torchrun", str(path)])
    try:
        run(args)
    except ChildFailedError as error:
        code = error.get_first_failure()[1].exitcode
        return code if code > 0 else 128 - code
    except SignalException as error:
        return 128 + error.sigval
    return 0


def train(config: str) -> int:
    from ..learner import main as process

    process.main(load(Path(config)))
    return 0


def main(argv: list[str]) -> int:
    """One rank. It dies with its agent, so that nothing is left running when the agent is killed."""
    die_with_parent()
    log_to_stderr()
    return exit_code_of("learner", lambda: train(argv[0]))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

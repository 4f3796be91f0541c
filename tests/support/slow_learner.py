"""`prolong learner` with steps that last a minute from the third one on: the time is spent between micro-batches.

    python -m tests.support.slow_learner CONFIG     torchrun's agent, which starts its ranks as this module again

Each rank writes the file slow-RANK into the run's folder when it is in the middle of such a step.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from time import sleep
from typing import Any

from prolong.common.config.run_files import load_config, run_folder
from prolong.launch import torchrun
from prolong.launch.entry import end_process, exit_code_of
from prolong.launch.nodes import Nodes

QUICK_STEPS = 2
STEP_S = 60.0


def slow_down(folder: Path, micro_batches: int) -> None:
    """Make every step after the first ones of this process last for STEP_S."""
    from prolong.learner.step import Trainer

    train, backward, steps = Trainer.train, Trainer._backward, 0

    def counted(self: Trainer, *args: Any, **settings: Any) -> dict[str, float]:
        nonlocal steps
        steps += 1
        return train(self, *args, **settings)

    def slow(self: Trainer, *args: Any, **settings: Any) -> Any:
        result = backward(self, *args, **settings)
        if steps > QUICK_STEPS:
            (folder / f"slow-{self.ranks.rank}").touch()
            sleep(STEP_S / micro_batches)
        return result

    Trainer.train = counted  # pyright: ignore[reportAttributeAccessIssue]
    Trainer._backward = slow  # pyright: ignore[reportAttributeAccessIssue]


def main(path: str) -> int:
    cfg = load_config(Path(path))
    if "RANK" not in os.environ:
        torchrun.RANK_MODULE = "tests.support.slow_learner"
        return exit_code_of("learner", lambda: torchrun.launch_ranks(cfg, Nodes()))
    rollouts = cfg.buffer.batch_groups * cfg.sampling.n
    slow_down(run_folder(cfg), rollouts // cfg.launch.learner_ranks)
    return torchrun.main([path])


if __name__ == "__main__":
    end_process(main(sys.argv[1]))

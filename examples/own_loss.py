"""A loss of your own on the batches of a recorded run: `python examples/own_loss.py runs/NAME [--steps 5]`.

The loss is a smooth version of PPO's clip: the gradient of a token fades as its ratio leaves 1, and never stops at an edge. The
real learner runs twice on the recorded batches, without actors and without a buffer, once with each loss, and a table shows
where they part. The run needs `buffer.keep_history=true`.
Start the script where the run was started, so that its model is found.

To train with it, give it a name: docs/extending.md, "A loss".
"""

import argparse
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from prolong.common.config.algorithm import ObjectiveConfig
from prolong.common.config.run_files import RunPaths, load_config, run_paths
from prolong.common.metrics import read_metrics
from prolong.launch.replay.rerun import train_recorded
from prolong.learner.algorithm.api import LossTerms, Tokens
from prolong.learner.algorithm.losses.per_token import PerToken
from prolong.learner.algorithm.losses.table import LOSSES
from torch import Tensor

SHOWN = ("policy/loss", "policy/ratio_mean", "policy/kl_behaviour", "learner/entropy", "learner/grad_norm")


def smooth_clip_loss(tokens: Tokens, log_ratio: Tensor, cfg: ObjectiveConfig) -> LossTerms:
    """-A w(r) with w(r) = c tanh((r - 1) / c) + 1: slope 1 at r = 1, bounded by 1 - c and 1 + c; c is cfg.clip_high."""
    ratio = log_ratio.exp()
    bounded = cfg.clip_high * torch.tanh((ratio - 1.0) / cfg.clip_high) + 1.0
    nowhere = torch.zeros_like(ratio, dtype=torch.bool)  # no token loses its gradient
    return LossTerms(
        loss=-tokens.advantage * bounded, ratio=ratio, clipped_low=nowhere, clipped_high=nowhere, clipped_dual=nowhere
    )


def learn(run: RunPaths, steps: int, folder: str) -> list[dict]:
    """The metrics of a learner that trains on the first `steps` recorded batches."""
    cfg = load_config(run.config)
    # four updates a batch: with one, every ratio is 1 and losses of ratios do not differ
    cfg = replace(cfg, run=replace(cfg.run, root=folder, name="copy", steps=steps), learner=replace(cfg.learner, minibatches=4))
    train_recorded(cfg, run, steps)
    return read_metrics(run_paths(cfg).metrics)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--steps", type=int, default=5)
    args = parser.parse_args()
    run = RunPaths(args.run)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        default = learn(run, args.steps, first)
        loss = load_config(run.config).objective.loss
        LOSSES[loss] = partial(PerToken, smooth_clip_loss)
        own = learn(run, args.steps, second)
    print(f"{'step':>4}  {'metric':20}  {loss.value:>12}  {'smooth_clip':>12}")
    for before, after in zip(default, own, strict=True):
        for name in SHOWN:
            print(f"{before['step']:4d}  {name:20}  {before[name]:12.6f}  {after[name]:12.6f}")


if __name__ == "__main__":
    main()

"""prolong against TRL's GRPO: same two cores, same model, tasks, settings and seeds, equal rollouts trained, rounds A B A B.

TRL runs in its fastest arrangement on two cores (two DDP ranks, one thread each) in an environment of its own, `.venv-trl`,
which `make install-trl` makes from bench/requirements-trl.lock. Dynamic sampling, which TRL's GRPO does not have, is off on
both sides.
The task `long-tail` (long_tail.py) has answers that vary tenfold in length; the demo's are all about equally long.
Time to .85: the first step whose mean training reward over the last three steps is at least .85.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

from ..common.config.sections import Config
from ..launch.recipes import compose
from .long_tail import long_tail_overrides, make_long_tail_model
from .measure import CommandCost, median_ratio, report, run_command, seconds_per_step, train_run

RACED = ("math", "reasoning_gym")  # verifiers
SCRIPT = Path(__file__).parent / "trl_grpo.py"
TARGET_REWARD = 0.85


def trl_settings(cfg: Config, steps: int, seed: int) -> dict:
    """The settings of the demo in TRL's names."""
    return {
        "groups": cfg.buffer.batch_groups,
        "n": cfg.sampling.n,
        "max_tokens": cfg.sampling.max_tokens,
        "temperature": cfg.sampling.temperature,
        "steps": steps,
        "seed": seed,
        "lr": cfg.learner.lr,
        "betas": list(cfg.learner.betas),
        "weight_decay": cfg.learner.weight_decay,
        "grad_clip": cfg.learner.grad_clip,
        "clip_low": cfg.objective.clip_low,
        "clip_high": cfg.objective.clip_high,
        "kl_beta": cfg.objective.kl_beta,
    }


def first_at_target(walls: list[float], rewards: list[float]) -> float | None:
    """Wall seconds of the first step whose reward, averaged over it and the two before, reaches TARGET."""
    for i in range(2, len(rewards)):
        if statistics.mean(rewards[i - 2 : i + 1]) >= TARGET_REWARD:
            return walls[i]
    return None


def side(walls: list[float], rewards: list[float], spent: CommandCost, rollouts: int) -> dict:
    """The figures of one run. `walls`: the end of each step, in seconds since the start of the command."""
    reached = first_at_target(walls, rewards)
    first_step_at = walls[0] - seconds_per_step(walls)
    return {
        "step_s": seconds_per_step(walls),
        "to_target_s": None if reached is None else reached - first_step_at,
        "to_target_with_startup_s": reached,
        "end_reward": statistics.mean(rewards[-3:]),
        "cpu_ms_per_rollout": 1e3 * spent.cpu_s / rollouts,
        "wall_s": spent.wall_s,
    }


def write_raced_prompts(cfg: Config, path: Path) -> None:
    """Write the prompts of the recipe that both sides can judge: the rewards for TRL have neither a sandbox nor IFEval."""
    lines = Path(cfg.data.train[0].file).read_text().splitlines(keepends=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(line for line in lines if json.loads(line)["verifier"] in RACED))


def run_trl(python: Path, cfg: Config, steps: int, seed: int, root: Path) -> dict:
    out = root / f"trl-{seed}.jsonl"
    command = [str(python), "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(SCRIPT)]
    command += ["--model", cfg.model.path, "--train", cfg.data.train[0].file, "--out", str(out)]
    command += ["--settings", json.dumps(trl_settings(cfg, steps, seed))]
    spent = run_command(
        command, timeout_s=900, log=root / f"trl-{seed}.log", env={"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    )
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    walls = [line["at"] - spent.started_at for line in lines]
    rollouts = steps * cfg.buffer.batch_groups * cfg.sampling.n
    return side(walls, [line["reward"] for line in lines], spent, rollouts)


def run_prolong(cfg: Config, recipe: str, steps: int, seed: int, root: Path, overrides: list[str]) -> dict:
    fixed = [f"run.steps={steps}", f"run.seed={seed}", "buffer.dynamic_sampling=false", "data.heldout=[]", "validation.every=0"]
    result = train_run(f"race-{seed}", [*fixed, *overrides], root=root, recipe=recipe)
    walls = [result.learner_after_s + step["wall_s"] for step in result.steps]
    rollouts = steps * cfg.buffer.batch_groups * cfg.sampling.n
    return side(walls, [step["reward/mean"] for step in result.steps], result.spent, rollouts)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="prolong bench race-trl", description=__doc__)
    parser.add_argument("--recipe", default="demo")
    parser.add_argument("--task", choices=("recipe", "long-tail"), default="recipe")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=3, help="rounds; each has a seed of its own")
    parser.add_argument("--root", type=Path, default=Path("runs/bench-race"))
    parser.add_argument("--trl-python", type=Path, default=Path(".venv-trl/bin/python"))
    parser.add_argument("--json", action="store_true")
    parser.add_argument("overrides", nargs="*", help="section.key=value, for both sides where TRL has the setting")
    args = parser.parse_args(argv)
    if not args.trl_python.exists():
        raise SystemExit(f"no TRL environment at {args.trl_python}: run `make install-trl`")
    overrides = ["launch.pin_cores=true", *args.overrides]
    if args.task == "long-tail":
        make_long_tail_model()
        overrides = [*long_tail_overrides(), *overrides]
    prompts = args.root / "train.jsonl"
    write_raced_prompts(compose(args.recipe, overrides), prompts)
    overrides += [f"data.train=[{{file: {prompts}}}]"]
    cfg = compose(args.recipe, overrides)
    ours, theirs = [], []
    for seed in range(args.seeds):
        ours.append(run_prolong(cfg, args.recipe, args.steps, seed, args.root, overrides))
        theirs.append(run_trl(args.trl_python, cfg, args.steps, seed, args.root))
    result = {
        "bench": "race-trl",
        "task": args.task,
        "steps": args.steps,
        "speed_over_trl": median_ratio([t["step_s"] for t in theirs], [o["step_s"] for o in ours]),
        "prolong": ours,
        "trl": theirs,
    }
    report(result, as_json=args.json)
    return 0

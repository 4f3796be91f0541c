"""What a curriculum gains: prompts in shuffled epochs against prompts by plans, on the same work, three seeds an arm.

    prolong bench curriculum --json

A run is real training of the demo's model in this process (lockstep.py, eta 0), with the buffer's own prompt sources and its
filter: groups without signal are sampled and paid for, dropped, and others drawn. Prompts are sums of a few digits: a third of
them is what the model can learn within the run, the others have more terms than it ever saw and stay at 0. Held out are prompts
of the first kind. What counts is how many rollouts it takes until they pass, and how many of those taught nothing.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean

import torch

from ..buffer.journal.records import Observation, PlanRecord
from ..buffer.tickets.curriculum import is_due, next_plan, observed
from ..buffer.tickets.filters import has_signal
from ..buffer.tickets.mixture import PromptMixture
from ..buffer.tickets.planned_mixture import PlannedMixture
from ..common.config.sections import Config, SourceConfig
from ..common.config.trees import curriculum_config
from ..common.data.prompts import to_prompt
from ..common.tokenizer import Tokenizer
from ..common.types import Group, Prompt, Sampling
from ..launch.demo.bootstrap import fill_demo_folder
from ..launch.demo.tasks import DEMO_LEVEL, digit_sum_problem
from ..launch.recipes import compose
from .lockstep import LockstepResult, LockstepRun

STEPS, GROUPS, ROLLOUTS = 24, 8, 8
MOST_DROPPED = 4.0  # groups without signal per batch, as a multiple of GROUPS: buffer.max_filtered
# terms of a sum -> prompts; the demo's model was shown sums of 4 to 6 terms
LEARNABLE = (4, 6)
TERMS = {LEARNABLE: 60, (8, 12): 120}
HELD_OUT = 60  # prompts
TARGET, SWEEP_EVERY = 0.9, 2  # pass rate; versions between two sweeps
SEEDS = 3
ARMS = {"shuffled": "{}", "curriculum": "{every: 4}"}
SETTINGS = (
    f"run.steps={STEPS}", f"buffer.batch_groups={GROUPS}", f"sampling.n={ROLLOUTS}", "objective.kl_beta=0", "buffer.eta=0",
    "validation.n=4", "validation.every=0", "validation.greedy=false", "reference.reset_every=0", "learner.lr=3e-5",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class CurriculumRow:
    """One run. `sampled_by_step` and `reward_by_step` hold a number for every step, `sweeps` pairs (rollouts, pass rate)."""

    arm: str
    seed: int
    held_out: float  # pass rate at the end
    until: int | None  # rollouts sampled before a sweep had the pass rate TARGET; None: it never had
    rollouts: int  # sampled in all
    wasted: float  # share of them in groups that were dropped
    learned_from: float  # mean over steps of the share of groups with signal in the batch
    sampled_by_step: list[int]
    reward_by_step: list[float]
    sweeps: list[tuple[int, float]]


class CurriculumRun(LockstepRun):
    """A lockstep run whose prompts come from one of the buffer's sources, and whose groups without signal are dropped."""

    def __init__(self, cfg: Config, prompts: Sequence[Prompt], heldout: Sequence[Prompt], tokenizer: Tokenizer) -> None:
        super().__init__(cfg, prompts, heldout, tokenizer)
        rules = curriculum_config(cfg)
        sources = [(list(prompts), 1.0)]
        self._source = PromptMixture(sources, cfg.run.seed) if rules is None else PlannedMixture(sources, cfg.run.seed, rules)
        self._plan: PlanRecord | None = None
        self._seen: list[Observation] = []
        self.sampled: list[int] = []  # rollouts before each step
        self.with_signal: list[float] = []
        self.sweeps: list[tuple[int, float]] = []  # (rollouts so far, pass rate)

    def _draw(self) -> Prompt:
        return self._source.next()

    def _sample_batch(self) -> list[Group]:
        """As many groups with signal as a batch has, or what is left when too many were dropped."""
        self._maybe_plan(self._sampler.version)
        if self._sampler.version % SWEEP_EVERY == 0:
            self.sweeps.append((sum(self.sampled), round(self._sweep(), 4)))
        how = self.cfg.sampling
        rule = Sampling(n=how.n, temperature=how.temperature, top_p=1.0, max_tokens=how.max_tokens)
        kept: list[Group] = []
        dropped = total = 0
        limit = int(MOST_DROPPED * GROUPS)
        while len(kept) < GROUPS:
            groups = self._sampler.groups([self._ticket(self._draw(), rule) for _ in range(GROUPS - len(kept))])
            total += ROLLOUTS * len(groups)
            for group in groups:
                self._seen.append(observed(group.prompt, [one.verdict.reward or 0.0 for one in group.rollouts]))
                if has_signal(group) or dropped >= limit:
                    kept.append(group)
                else:
                    dropped += 1
        self.sampled.append(total)
        self.with_signal.append(fmean(map(has_signal, kept)))
        return kept

    def _maybe_plan(self, version: int) -> None:
        source = self._source
        if isinstance(source, PlannedMixture) and is_due(self._plan, version, 1, source.rules):
            total = len(self._seen)
            before = 0 if self._plan is None else self._plan.num_observations
            about = {"version": version, "generation": 1, "num_observations": total}
            self._plan = next_plan(self._plan, self._seen[before:], [], source.rules, **about)
            source.begin(self._plan)


def sum_prompts(tokenizer: Tokenizer, *, counts: dict[tuple[int, int], int], seed: int, name: str) -> list[Prompt]:
    """Prompts of every kind, none twice; `name` begins their uids."""
    found: dict[str, Prompt] = {}
    for terms, count in counts.items():
        rng, level, kind = random.Random(f"{seed} {terms}"), replace(DEMO_LEVEL, terms=terms), f"{terms[0]}-{terms[1]}-terms"
        wanted = len(found) + count
        while len(found) < wanted:
            made = digit_sum_problem(rng, level)
            record = {"prompt": made.prompt, "domain": "math", "task": kind, "verifier": "number", "answer": made.answer}
            found.setdefault(made.prompt, to_prompt(record, f"{name}/{len(found)}", tokenizer, SourceConfig(file=name)).prompt)
    return list(found.values())


def run_arm(model: Path, tokenizer: Tokenizer, arm: str, seed: int) -> CurriculumRow:
    """One run."""
    files = [f"data.{name}=[{{file: {model}/{name}.jsonl}}]" for name in ("train", "heldout")]
    cfg = compose("demo", [*SETTINGS, f"model={model}", *files, f"run.seed={seed}", f"buffer.curriculum={ARMS[arm]}"])
    prompts = sum_prompts(tokenizer, counts=TERMS, seed=1, name="train")
    heldout = sum_prompts(tokenizer, counts={LEARNABLE: HELD_OUT}, seed=2, name="held")
    run = CurriculumRun(cfg, prompts, heldout, tokenizer)
    result = run.run(lambda version, metrics: 0)
    return _row(arm, seed, run, result)


def _row(arm: str, seed: int, run: CurriculumRun, result: LockstepResult) -> CurriculumRow:
    trained = run.sampled[:STEPS]
    dropped = sum(trained) - STEPS * GROUPS * ROLLOUTS
    return CurriculumRow(
        arm=arm,
        seed=seed,
        held_out=round(result.heldout, 4),
        until=next((sampled for sampled, score in run.sweeps if score >= TARGET), None),
        rollouts=sum(trained),
        wasted=round(dropped / sum(trained), 4),
        learned_from=round(fmean(run.with_signal[:STEPS]), 4),
        sampled_by_step=trained,
        reward_by_step=[round(reward, 3) for reward in result.rewards[:STEPS]],
        sweeps=run.sweeps,
    )


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="prolong bench curriculum", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--model", type=Path, default=Path("models/demo"), help="the demo's model, made if it is not there")
    parser.add_argument("--json", action="store_true", help="one JSON object a run, a line each")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    if not (args.model / "model.safetensors").exists():
        fill_demo_folder(args.model)
    tokenizer, rows = Tokenizer.load(str(args.model)), []
    for seed in range(args.seeds):
        for arm in ARMS:
            rows.append(run_arm(args.model, tokenizer, arm, seed))
            sys.stderr.write(f"{_sentence(rows[-1])}\n")
    for row in rows:
        sys.stdout.write((json.dumps(asdict(row)) if args.json else _sentence(row)) + "\n")
    return 0


def _sentence(row: CurriculumRow) -> str:
    until = "never" if row.until is None else f"{row.until:,} rollouts"
    all_of_it = f"{row.rollouts:,} rollouts in all, {row.wasted:.0%} wasted, {row.held_out:.3f} at the end"
    return f"{row.arm:10s} seed {row.seed}: {TARGET:.0%} after {until}; {all_of_it}"

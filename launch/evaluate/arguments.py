"""The command line of `prolong evaluate`; it imports next to nothing, so that --help is cheap.

The defaults of the sampling are those of the ProRL paper (arXiv 2507.12507): temperature 0.6, top_p 0.95, 32,768 tokens, and
16 rollouts of each prompt.
"""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from math import inf
from pathlib import Path

from ..argument_types import at_least

OVERRIDE = re.compile(r"(preset|[a-z_]+\.[\w.]+)=")


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What a user asks for."""

    models: list[str]
    data: list[Path]  # none: the recipe's data.heldout
    chat: bool
    system: str
    out: Path
    n: int
    ks: list[int]
    temperature: float
    top_p: float
    max_tokens: int
    seed: int
    prompts: int  # of each file, the first ones; 0: all
    part: tuple[int, int]  # this process samples one of so many parts; (0, 1): all
    recipe: str
    overrides: list[str]
    as_json: bool


def evaluate_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="prolong evaluate",
        description="sample every held-out prompt several times from each model, and print pass@k, maj@k and intervals "
        "(docs/evaluation.md); a command that was killed goes on where it was",
        usage="prolong evaluate MODEL [MODEL ...] [--data FILE [FILE ...]] [options] [section.key=value ...]",
    )
    parser.add_argument(
        "models", nargs="+", metavar="MODEL", help="a folder, a hub name, a checkpoint, or a run: its newest checkpoint"
    )
    parser.add_argument("--data", nargs="+", default=[], metavar="FILE", help="prompt files, or public sets as they come")
    parser.add_argument("--chat", action="store_true", help="give prompts that are texts through the model's chat template")
    parser.add_argument("--system", default="", metavar="TEXT", help="system message of every chat; it implies --chat")
    parser.add_argument("--out", type=Path, help="its folder (default: evaluations/ and the name of the first FILE or MODEL)")
    parser.add_argument("--n", type=at_least(1), default=16, help="rollouts of each prompt (default: 16)")
    parser.add_argument("--k", type=at_least(1), nargs="+", default=[], help="of pass@k and maj@k (default: 1, 2, 4, ... n)")
    parser.add_argument("--temperature", type=float, default=0.6, help="default: 0.6; 0: greedy, with --n 1")
    parser.add_argument("--top-p", type=float, default=0.95, help="default: 0.95")
    parser.add_argument(
        "--max-tokens", type=at_least(1), default=32768, help="of a rollout (default: 32768, or the model's room)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the sampling; all models have the same")
    parser.add_argument("--prompts", type=at_least(1), default=0, help="only so many prompts of each file (default: all)")
    several = "sample one of N parts of the rollouts, for N GPUs; then once more without it, for the table"
    parser.add_argument("--part", type=_part, default=(0, 1), metavar="I/N", help=several)
    recipe = "a name in launch/conf or a YAML file: its engine, verifiers and, without --data, data.heldout"
    parser.add_argument("--recipe", default="", help=recipe)
    parser.add_argument("--json", action="store_true", help="print one JSON object and no tables")
    return parser


def parse_evaluation(argv: list[str]) -> Evaluation:
    """The arguments; words such as actor.engine=transformers may stand anywhere."""
    overrides = [word for word in argv if OVERRIDE.match(word)]
    parser = evaluate_parser()
    args = parser.parse_intermixed_args([word for word in argv if not OVERRIDE.match(word)])
    if not (0 <= args.temperature < inf and 0 < args.top_p <= 1 and 0 <= args.seed < 2**63):
        parser.error("expected a --temperature of 0 or more, a --top-p in (0, 1], and a --seed of 0 or more")
    if args.temperature == 0 and args.n > 1:
        parser.error(f"--temperature 0 --n {args.n}: greedy rollouts are all alike; give --n 1")
    if not args.data and not args.recipe:
        parser.error("no prompts: give --data FILE, or --recipe, whose data.heldout is used")
    if any(k > args.n for k in args.k):
        parser.error(f"--k {max(args.k)} --n {args.n}: k of n rollouts need an n of at least k")
    data = [Path(word) for word in args.data]
    powers = [2**power for power in range(args.n.bit_length()) if 2**power <= args.n]
    return Evaluation(
        models=args.models,
        data=data,
        chat=args.chat or bool(args.system),
        system=args.system,
        out=args.out or Path("evaluations", data[0].stem if data else Path(args.models[0]).name),
        n=args.n,
        ks=sorted(set(args.k)) or sorted({*powers, args.n}),
        temperature=args.temperature,
        top_p=args.top_p,
        max_tokens=args.max_tokens,
        seed=args.seed,
        prompts=args.prompts,
        part=args.part,
        recipe=args.recipe,
        overrides=overrides,
        as_json=args.json,
    )


def _part(text: str) -> tuple[int, int]:
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise argparse.ArgumentTypeError(f"{text}: expected I/N, such as 0/4, 1/4, 2/4 and 3/4 for four processes")
    return int(index), int(count)

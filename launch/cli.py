"""The `prolong` command: one dispatcher, a parser per command, one place where errors become exit codes.

Nothing heavy is imported before a command needs it: `prolong --help` and `prolong COMMAND --help` load neither torch nor Hydra.
Exit codes: 0 done, 1 failed, 2 the caller can mend it (one sentence on stderr), 130 interrupted.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path

from ..common.errors import UserError
from .entry import exit_code_of, log_to_stderr

BENCHES = Path(__file__).resolve().parent.parent / "bench"


def config_parser(command: str, summary: str) -> argparse.ArgumentParser:
    """A parser with what every command that composes a run's configuration takes."""
    parser = argparse.ArgumentParser(prog=f"prolong {command}", description=summary)
    parser.add_argument("--recipe", default="", help="a name in launch/conf, or a YAML file such as runs/NAME/config.yaml")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="settings of docs/config.md, over the recipe")
    return parser


def train(argv: list[str]) -> int:
    """run everything on this machine: buffer, learner and actors, supervised, with a live view"""
    args = config_parser("train", train.__doc__ or "").parse_intermixed_args(argv)
    from .local import train as local

    return local.run_on_this_machine(args.recipe, args.overrides)


def buffer(argv: list[str]) -> int:
    """start the buffer: prompts, tickets, staleness contract, batches"""
    args = config_parser("buffer", buffer.__doc__ or "").parse_intermixed_args(argv)
    from .recipes import compose

    log_to_stderr()
    cfg = compose(args.recipe, args.overrides)
    from ..buffer import main as process

    process.main(cfg)
    return 0


def learner(argv: list[str]) -> int:
    """start the learner: its ranks under torchrun"""
    args = config_parser("learner", learner.__doc__ or "").parse_intermixed_args(argv)
    from . import torchrun
    from .recipes import compose

    log_to_stderr()
    return torchrun.launch_ranks(compose(args.recipe, args.overrides))


def actor(argv: list[str]) -> int:
    """start one actor: a vLLM engine and its verifiers"""
    parser = config_parser("actor", actor.__doc__ or "")
    parser.add_argument("--name", help="unique among the living actors (default: actor-HOST-PID)")
    args = parser.parse_intermixed_args(argv)
    from .recipes import compose

    log_to_stderr()
    cfg = compose(args.recipe, args.overrides)
    name = args.name or f"actor-{os.uname().nodename}-{os.getpid()}"
    from ..actor import main as process

    process.main(cfg, name)
    return 0


def verifier(argv: list[str]) -> int:
    """score for the actors of other hosts, or try a reward function on a file"""
    parser = config_parser("verifier", verifier.__doc__ or "")
    parser.add_argument("--address", default="tcp://127.0.0.1:5720", help="beyond loopback: with verifiers.keys=FOLDER")
    lines = 'lines of {"verifier", "completion", "answer", "prompt"}; "-": standard input'
    parser.add_argument("--try", dest="file", metavar="FILE", help=f"print a verdict for each line and end: {lines}")
    args = parser.parse_intermixed_args(argv)
    from .recipes import compose

    log_to_stderr()
    cfg = compose(args.recipe, ["model.path=unused", *args.overrides])
    from ..verifiers.workers import server as process

    return process.judge_file(cfg.verifiers, args.file) if args.file else process.serve(cfg.verifiers, args.address)


def bootstrap(argv: list[str]) -> int:
    """make the demo's model, its training prompts and its held-out prompts"""
    from .demo import bootstrap as process

    return process.main(argv)


def status(argv: list[str]) -> int:
    """print the ledger of a live or ended run"""
    parser = argparse.ArgumentParser(prog="prolong status", description=status.__doc__)
    parser.add_argument("run", help="the run's name (a folder in runs/), or its folder")
    parser.add_argument("--json", action="store_true", help="one JSON object on one line")
    args = parser.parse_args(argv)
    from . import status as page

    return page.show_status(args.run, as_json=args.json)


def reset(argv: list[str]) -> int:
    """ask a live run to reset its reference now"""
    parser = argparse.ArgumentParser(prog="prolong reset", description=reset.__doc__)
    parser.add_argument("--run", required=True, metavar="NAME_OR_FOLDER", help="a folder in runs/, or any run's folder")
    args = parser.parse_args(argv)
    from . import reset as page

    return page.ask_for_reset(args.run)


def replay(argv: list[str]) -> int:
    """run the learner of a run again from its recorded batches, and compare"""
    codes = "exit code: 0 the same, 1 something differs, 2 it cannot be run again"
    parser = argparse.ArgumentParser(prog="prolong replay", description=replay.__doc__, epilog=codes)
    parser.add_argument("run", help="the run's name (a folder in runs/), or its folder; it is only read")
    parser.add_argument("--until", type=int, metavar="STEP", help="stop after this step (default: the last one recorded)")
    parser.add_argument("--keep", action="store_true", help="keep RUN/replay also when everything is the same")
    parser.add_argument("--json", action="store_true", help="one JSON object on one line")
    args = parser.parse_args(argv)
    from .replay import replay as process

    return process.replay_run(args.run, until=args.until, keep=args.keep, as_json=args.json)


def diff(argv: list[str]) -> int:
    """say at which step two runs part, and in what"""
    codes = "exit code: 0 all that both recorded is the same, 1 something differs, 2 they cannot be compared"
    parser = argparse.ArgumentParser(prog="prolong diff", description=diff.__doc__, epilog=codes)
    parser.add_argument("runs", nargs=2, metavar="RUN", help="a run's name (a folder in runs/), or its folder")
    parser.add_argument("--json", action="store_true", help="one JSON object on one line")
    args = parser.parse_args(argv)
    from .replay import diff as page

    return page.show_diff(*args.runs, as_json=args.json)


def journal(argv: list[str]) -> int:
    """check a run's journal: every record, and that every ticket is accounted for"""
    codes = "exit code: 0 sound, 1 something is wrong with it, 2 there is none"
    parser = argparse.ArgumentParser(prog="prolong journal", description=journal.__doc__, epilog=codes)
    parser.add_argument("action", choices=["check"])
    parser.add_argument("run", help="the run's name (a folder in runs/), or its folder; it is only read")
    parser.add_argument("--json", action="store_true", help="one JSON object on one line")
    args = parser.parse_args(argv)
    from . import journal as page

    return page.check_journal(args.run, as_json=args.json)


def data(argv: list[str]) -> int:
    """look into a prompt file, make one from a public format, or generate puzzles"""
    from .data import command as page

    return page.main(argv)


def keys(argv: list[str]) -> int:
    """make the keys that a buffer beyond loopback needs, and say what to copy where"""
    parser = argparse.ArgumentParser(prog="prolong keys", description=keys.__doc__)
    parser.add_argument("folder", type=Path, help="made if need be; then buffer.keys=FOLDER on every host")
    parser.add_argument("names", nargs="*", metavar="NAME", help="one key pair for each: a host or a client")
    parser.add_argument("--clients", type=int, default=0, metavar="N", help="the same for client-1 ... client-N")
    args = parser.parse_intermixed_args(argv)
    from . import keys as page

    return page.write_run_keys(args.folder, args.names, args.clients)


def doctor(argv: list[str]) -> int:
    """say what of this machine and installation a run could stumble over"""
    args = config_parser("doctor", doctor.__doc__ or "").parse_intermixed_args(argv)
    from . import doctor as page

    return page.examine(args.recipe, args.overrides)


def bench(argv: list[str]) -> int:
    """run one of the measurements in bench/"""
    names = {path.stem.replace("_", "-"): path.stem for path in sorted(BENCHES.glob("*.py")) if is_bench(path)}
    if not argv or argv[0] in ("-h", "--help"):
        say(f"usage: prolong bench NAME [--json] ...\n\n{bench.__doc__}: {', '.join(names)}")
        say("`prolong bench NAME --help` tells more.")
        return 0 if argv else 2
    if argv[0] not in names:
        raise UserError(f"bench {argv[0]!r}: expected one of {', '.join(names)}")
    return importlib.import_module(f"prolong.bench.{names[argv[0]]}").main(argv[1:])


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "train": train,
    "buffer": buffer,
    "learner": learner,
    "actor": actor,
    "verifier": verifier,
    "bootstrap": bootstrap,
    "status": status,
    "reset": reset,
    "replay": replay,
    "diff": diff,
    "journal": journal,
    "data": data,
    "keys": keys,
    "doctor": doctor,
    "bench": bench,
}


def is_bench(path: Path) -> bool:
    """Benches are the modules of bench/ that define `main(argv)`; the others are what they share."""
    return "\ndef main(argv" in path.read_text()


def say(text: str) -> None:
    sys.stdout.write(text + "\n")


def usage() -> str:
    lines = [f"  {name:10s} {command.__doc__}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: prolong COMMAND [--recipe NAME_OR_YAML] [section.key=value ...]",
            "",
            "Asynchronous, prolonged reinforcement learning of language models with verifiable rewards.",
            "",
            *lines,
            "",
            "`prolong COMMAND --help` tells more; docs/config.md lists every setting.",
        ]
    )


def dispatch(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        say(usage())
        return 0 if argv else 2
    if argv[0] not in COMMANDS:
        raise UserError(f"command {argv[0]!r}: expected one of {', '.join(COMMANDS)}")
    return COMMANDS[argv[0]](argv[1:])


def main(argv: list[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    return exit_code_of(argv[0] if argv else "", lambda: dispatch(argv))


if __name__ == "__main__":
    raise SystemExit(main())

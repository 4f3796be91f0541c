"""The `prolong` command: a table of commands, a parser for each, and one place where errors become exit codes.

A command imports what it needs when it runs: `prolong --help` and `prolong COMMAND --help` load neither torch nor Hydra.
Exit codes: 0 done, 1 failed, 2 a mistake that the user can correct (one sentence on stderr), 130 interrupted.
"""

from __future__ import annotations

import argparse
import importlib
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..common.errors import UserError
from .argument_types import finite_from
from .entry import end_process, exit_code_of, log_to_stderr, quiet_libraries
from .process_commands import actor, buffer, learner, relay, verifier

BENCHES = Path(__file__).resolve().parent.parent / "bench"


@dataclass(frozen=True, slots=True)
class Command:
    """`run` takes the arguments behind the command's name, and returns the exit code."""

    run: Callable[[list[str]], int]
    summary: str


def command_parser(name: str, epilog: str = "") -> argparse.ArgumentParser:
    """A parser for one command of COMMANDS."""
    return argparse.ArgumentParser(prog=f"prolong {name}", description=COMMANDS[name].summary, epilog=epilog)


def config_parser(name: str) -> argparse.ArgumentParser:
    """The parser of a command that composes the configuration of a run."""
    parser = command_parser(name)
    parser.add_argument("--recipe", default="", help="a name in launch/conf, or a YAML file such as runs/NAME/config.yaml")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="settings of docs/config.md, over the recipe")
    return parser


def composed(name: str, start: Callable[[list[str], argparse.ArgumentParser], int]) -> Callable[[list[str]], int]:
    """What COMMANDS runs for `start`, which takes the parser of the command too."""
    return lambda argv: start(argv, config_parser(name))


def train_here(argv: list[str]) -> int:
    args = config_parser("train").parse_intermixed_args(argv)
    from .local.supervisor import RunOutcome
    from .local.train import report_outcome
    from .python import RunFailed, train

    try:
        outcome, run = RunOutcome(code=0), train(args.recipe, args.overrides)
    except RunFailed as failure:
        outcome, run = failure.outcome, failure.run
    resume = f"prolong train --recipe {shlex.quote(str(run.paths.config))}"
    return report_outcome(outcome, run.paths, "prolong train", resume=resume)


def bootstrap(argv: list[str]) -> int:
    from .bootstrap import main as run_bootstrap

    return run_bootstrap(argv)


def track(argv: list[str]) -> int:
    parser = command_parser("track")
    parser.add_argument("run", help="the run's name (a folder in runs/), or its folder")
    args = parser.parse_args(argv)
    from .status import find_run
    from .trackers.command import track_run

    return track_run(find_run(args.run))


def status(argv: list[str]) -> int:
    parser = command_parser("status")
    parser.add_argument("run", help="the run's name (a folder in runs/), or its folder")
    parser.add_argument("--json", action="store_true", help="one JSON object on one line")
    args = parser.parse_args(argv)
    from .status import show_status

    return show_status(args.run, as_json=args.json)


def report_page(argv: list[str]) -> int:
    parser = command_parser("report")
    parser.add_argument("run", help="the run's name (a folder in runs/), or its folder; it is only read")
    parser.add_argument("--out", type=Path, metavar="FILE", help="where the page is written (default: RUN/report.html)")
    parser.add_argument(
        "--megabytes", type=finite_from(0.0), default=20.0, help="of the page at most: how many rollouts it shows (default: 20)"
    )
    parser.add_argument("--quick", action="store_true", help="do not simulate what changes would gain: up to a minute")
    args = parser.parse_args(argv)
    from .report.command import report_run

    return report_run(args.run, args.out, args.megabytes, predicts=not args.quick)


def top(argv: list[str]) -> int:
    parser = command_parser("top")
    target = "the run's name or folder, or tcp://HOST:PORT of its buffer (default: the run in runs/ that started last)"
    parser.add_argument("target", nargs="?", default="", metavar="RUN|ADDRESS", help=target)
    parser.add_argument("--keys", default="", metavar="FOLDER", help="buffer.keys, for the buffer of another host")
    parser.add_argument(
        "--every", type=finite_from(0.0), default=1.0, metavar="SECONDS", help="pause between two looks (default: 1)"
    )
    parser.add_argument("--once", action="store_true", help="print one page; so does a standard output that is no terminal")
    args = parser.parse_args(argv)
    from .top.command import show_top

    return show_top(args.target, keys=args.keys, every_s=min(max(0.2, args.every), 3600.0), once=args.once)


def trace(argv: list[str]) -> int:
    parser = command_parser("trace", "a run of several hosts: give the run folder of each, copied to this one")
    parser.add_argument("runs", nargs="+", metavar="RUN", help="the run's name (a folder in runs/), or its folder; only read")
    parser.add_argument("--out", type=Path, metavar="FILE", help="a .json or .json.gz file (default: RUN/trace.json)")
    parser.add_argument(
        "--last", type=finite_from(0.0), default=0.0, metavar="SECONDS", help="only the end of the run (default: all)"
    )
    args = parser.parse_args(argv)
    from .trace.command import write_trace

    return write_trace(args.runs, args.out, args.last)


def reset(argv: list[str]) -> int:
    parser = command_parser("reset")
    parser.add_argument("--run", required=True, metavar="NAME_OR_FOLDER", help="a folder in runs/, or the folder of any run")
    args = parser.parse_args(argv)
    from .reset import ask_for_reset

    return ask_for_reset(args.run)


def replay(argv: list[str]) -> int:
    parser = command_parser("replay", "exit code: 0 the same, 1 something differs, 2 it cannot be run again")
    parser.add_argument("run", help="the run's name (a folder in runs/), or its folder; it is only read")
    parser.add_argument("--until", type=int, metavar="STEP", help="stop after this step (default: the last one recorded)")
    parser.add_argument("--keep", action="store_true", help="keep RUN/replay also when everything is the same")
    parser.add_argument("--json", action="store_true", help="one JSON object on one line")
    args = parser.parse_args(argv)
    from .replay.replay import replay_run

    return replay_run(args.run, until=args.until, keep=args.keep, as_json=args.json)


def diff(argv: list[str]) -> int:
    codes = "exit code: 0 all that both recorded is the same, 1 something differs, 2 they cannot be compared"
    parser = command_parser("diff", codes)
    parser.add_argument("runs", nargs=2, metavar="RUN", help="a run's name (a folder in runs/), or its folder")
    parser.add_argument("--json", action="store_true", help="one JSON object on one line")
    args = parser.parse_args(argv)
    from .replay.diff import show_diff

    return show_diff(*args.runs, as_json=args.json)


def export(argv: list[str]) -> int:
    parser = command_parser("export")
    parser.add_argument(
        "run", help="the run's name (a folder in runs/) or its folder: its newest checkpoint; or a checkpoint's"
    )
    parser.add_argument("out", type=Path, help="the folder that is made")
    parser.add_argument("--dtype", default="", help="of the parameters: float32, bfloat16 or float16 (default: as in the run)")
    args = parser.parse_args(argv)
    from .export import export_model

    return export_model(args.run, args.out, args.dtype)


def journal(argv: list[str]) -> int:
    parser = command_parser("journal", "exit code: 0 sound, 1 something is wrong with it, 2 there is none")
    parser.add_argument("action", choices=["check"])
    parser.add_argument("run", help="the run's name (a folder in runs/), or its folder; it is only read")
    parser.add_argument("--json", action="store_true", help="one JSON object on one line")
    args = parser.parse_args(argv)
    from .journal import check_journal

    return check_journal(args.run, as_json=args.json)


def data(argv: list[str]) -> int:
    from .data.command import main as run_data_command

    return run_data_command(argv)


def keys(argv: list[str]) -> int:
    parser = command_parser("keys")
    parser.add_argument("folder", type=Path, help="created if it is missing; then buffer.keys=FOLDER on every host")
    parser.add_argument("names", nargs="*", metavar="NAME", help="a host or a client: one key pair for each")
    parser.add_argument("--clients", type=int, default=0, metavar="N", help="the same for client-1 ... client-N")
    args = parser.parse_intermixed_args(argv)
    from .keys import write_run_keys

    return write_run_keys(args.folder, args.names, args.clients)


def evaluate_command(argv: list[str]) -> int:
    from .evaluate.arguments import parse_evaluation

    wanted = parse_evaluation(argv)
    log_to_stderr()
    quiet_libraries()
    from .evaluate.command import evaluate_models

    end_process(exit_code_of("evaluate", lambda: evaluate_models(wanted)))


def plan(argv: list[str]) -> int:
    if argv[:1] == ["memory"]:
        from .plan.memory_command import main as plan_memory

        return plan_memory(argv[1:])
    from .plan.arguments import plan_parser

    args = plan_parser().parse_intermixed_args(argv)
    from .plan.command import plan_on_cluster

    return plan_on_cluster(args)


def diagnose_run(argv: list[str]) -> int:
    parser = command_parser("diagnose")
    parser.add_argument("run", help="the run's name (a folder in runs/), or its folder; it is only read")
    parser.add_argument("--quick", action="store_true", help="do not simulate what changes would gain")
    cores = "that all processes share; 0: each has its own (default: those of this machine for a run on its CPU, else 0)"
    parser.add_argument("--cores", type=finite_from(0.0), metavar="N", help=cores)
    parser.add_argument("--json", action="store_true", help="one JSON object on one line")
    args = parser.parse_args(argv)
    from .diagnosis.command import show_diagnosis

    return show_diagnosis(args.run, as_json=args.json, predicts=not args.quick, cores=args.cores)


def launch(argv: list[str]) -> int:
    from .jobs.arguments import parse_job

    args = parse_job(argv, command_parser("launch"))
    from .jobs.command import launch_job

    return launch_job(args)


def doctor(argv: list[str]) -> int:
    parser = config_parser("doctor")
    parser.add_argument(
        "--agreement",
        action="store_true",
        help="start an engine beside the learner's model, and compare their log-probabilities layer by layer (model.path=...)",
    )
    args = parser.parse_intermixed_args(argv)
    if args.agreement:
        from .agreement.probe import examine_model

        end_process(exit_code_of("doctor", lambda: examine_model(args.recipe, args.overrides)))
    from .doctor import examine

    return examine(args.recipe, args.overrides)


def bench(argv: list[str]) -> int:
    names = {path.stem.replace("_", "-"): path.stem for path in sorted(BENCHES.glob("*.py")) if is_bench(path)}
    if not argv or argv[0] in ("-h", "--help"):
        say(f"usage: prolong bench NAME [--json] ...\n\n{COMMANDS['bench'].summary}: {', '.join(names)}")
        say("`prolong bench NAME --help` tells more.")
        return 0 if argv else 2
    if argv[0] not in names:
        raise UserError(f"bench {argv[0]!r}: expected one of {', '.join(names)}")
    return importlib.import_module(f"prolong.bench.{names[argv[0]]}").main(argv[1:])


COMMANDS: dict[str, Command] = {
    "train": Command(train_here, "run everything on this machine: buffer, learner and actors, supervised, with a live view"),
    "buffer": Command(composed("buffer", buffer), "start the buffer: prompts, tickets, staleness contract, batches"),
    "learner": Command(composed("learner", learner), "start the learner: its ranks under torchrun, on one node or several"),
    "actor": Command(composed("actor", actor), "start one actor: an engine and its verifiers"),
    "relay": Command(
        composed("relay", relay), "pull the weights once and let the actors near here pull them from this process"
    ),
    "verifier": Command(
        composed("verifier", verifier), "score for the actors of other hosts, or try a reward function on a file"
    ),
    "bootstrap": Command(bootstrap, "make the demo's model or a real chat model, with training and held-out prompts"),
    "status": Command(status, "print the ledger of a live or ended run"),
    "report": Command(report_page, "write one HTML page that shows a run: curves, time, staleness, findings, rollouts"),
    "diagnose": Command(diagnose_run, "say where a run's time went, what would make it faster, and what looks wrong with it"),
    "top": Command(top, "watch a running run: actors, learner, batches, and what holds them up"),
    "trace": Command(trace, "write what all processes did, on one clock, as a file for Perfetto"),
    "track": Command(track, "send the metrics of a run to its trackers (W&B, trackio, MLflow), as far as they lack them"),
    "reset": Command(reset, "ask a live run to reset its reference now"),
    "replay": Command(replay, "run the learner of a run again from its recorded batches, and compare"),
    "diff": Command(diff, "print the first step at which two runs differ, and in what"),
    "export": Command(export, "make a model that transformers and vLLM load of a checkpoint"),
    "journal": Command(journal, "check a run's journal: every record, and that every ticket is accounted for"),
    "data": Command(data, "examine a prompt file, make one from a public format, or generate puzzles"),
    "keys": Command(keys, "make the keys that a buffer beyond loopback needs, and say what to copy where"),
    "evaluate": Command(
        evaluate_command, "sample held-out prompts from models: pass@k, maj@k, intervals, one table and picture"
    ),
    "plan": Command(plan, "say how fast a run would be on a described cluster, or whether it fits into memory"),
    "launch": Command(launch, "write the files that start a run under Slurm, Kubernetes or SkyPilot"),
    "doctor": Command(doctor, "check this machine and installation for what a run needs"),
    "bench": Command(bench, "run one of the measurements in bench/"),
}


def is_bench(path: Path) -> bool:
    """Whether a module of bench/ is a bench: it defines `main(argv)`. The others are shared by benches."""
    return "\ndef main(argv" in path.read_text()


def say(text: str) -> None:
    sys.stdout.write(text + "\n")


def usage() -> str:
    lines = [f"  {name:10s} {command.summary}" for name, command in COMMANDS.items()]
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
    """Run the command that `argv` begins with. Raises: UserError for an unknown one."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        say(usage())
        return 0 if argv else 2
    if argv[0] not in COMMANDS:
        raise UserError(f"command {argv[0]!r}: expected one of {', '.join(COMMANDS)}")
    return COMMANDS[argv[0]].run(argv[1:])


def main(argv: list[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    return exit_code_of(argv[0] if argv else "", lambda: dispatch(argv))


if __name__ == "__main__":
    raise SystemExit(main())

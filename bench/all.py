"""Measure prolong on this machine, and write a file that `prolong bench compare` compares with another one.

    prolong bench all --list                          # what that is, and how long each takes
    prolong bench all --out mine.json                 # three rounds of everything that can be measured here
    prolong bench all --out mine.json --only ingest learner-step --rounds 5
    prolong bench compare before.json mine.json

Each measurement is a process of its own; rounds are interleaved (all measurements, then all again), so that a change of the
machine in between shows as spread. The file is written after every measurement: the same command goes on where it was, tries
what failed again, and with more --rounds adds to what is there. Leave the machine alone meanwhile: the file records how many
processes of others wanted a core, and `compare` warns.
"""

from __future__ import annotations

import argparse
import json
import resource
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import NamedTuple

from ..common.errors import UserError
from ..common.json_object import JsonObject
from .measurements import MADE_BY, MEASUREMENTS, MeasuredBench, figures_of
from .other_load import OtherLoad
from .results_file import BenchFile, BenchResult, read_results, these_versions, this_machine, write_results

MAX_ERROR = 2000  # characters of what a bench wrote before it failed


class Due(NamedTuple):
    """A measurement of one round that is to be made."""

    round: int
    name: str


def chosen(only: list[str]) -> tuple[dict[str, MeasuredBench], dict[str, str]]:
    """The measurements to make, and those that cannot be made here, each with the command that would change that."""
    unknown = [name for name in only if name not in MEASUREMENTS]
    if unknown:
        raise UserError(f"--only {unknown[0]!r}: expected some of {', '.join(MEASUREMENTS)}")
    wanted = {name: each for name, each in MEASUREMENTS.items() if (name in only if only else not each.asked)}
    left_out = {}
    for name, each in wanted.items():
        missing = [MADE_BY[file] for file in each.needs if not Path(file).exists()]
        if missing:
            left_out[name] = " and ".join(f"`{command}`" for command in missing)
    return {name: each for name, each in wanted.items() if name not in left_out}, left_out


def opened(path: Path, command: str) -> BenchFile:
    """The results so far. Raises: UserError when they were measured on another machine or with other versions."""
    machine, versions = this_machine(), these_versions()
    if not path.exists():
        return BenchFile(command=command, machine=machine, versions=versions)
    results = read_results(path)
    for what, recorded, here in (("machine", results.machine, machine), ("versions", results.versions, versions)):
        if recorded != here:
            raise UserError(f"{path} holds results of another {what}: {recorded}, and here {here}; choose another --out")
    return results


def due(results: BenchFile, names: list[str], rounds: int) -> list[Due]:
    """What is still to be measured, round by round."""
    done = {(each.round, each.measurement) for each in results.results if not each.error}
    return [Due(number, name) for number in range(1, rounds + 1) for name in names if (number, name) not in done]


def measure(name: str, measurement: MeasuredBench, round_: int, log: Path) -> BenchResult:
    """Run one bench in a process of its own; what it writes to standard error goes to `log`. A failure is a result, too."""
    began, before = monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    began_at = datetime.now(UTC).isoformat(timespec="seconds")
    result, error = JsonObject(), ""
    with OtherLoad() as load, log.open("wb") as sink:
        try:
            done = subprocess.run(
                command_of([*measurement.bench, "--json"]),
                stdout=subprocess.PIPE,
                stderr=sink,
                timeout=measurement.timeout_s,
                check=False,
            )
            result, error = result_line(done.stdout, done.returncode)
        except subprocess.TimeoutExpired:
            error = f"not done within {measurement.timeout_s:.0f} s"
        others = load.mean_of_last(float("inf"))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return BenchResult(
        measurement=name,
        round=round_,
        command=measurement.command,
        began=began_at,
        wall_s=round(monotonic() - began, 1),
        cpu_s=round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 1),
        others=round(others, 2),
        figures=figures_of(measurement, result),
        result=result,
        error=f"{error}\n{log.read_text(errors='replace')[-MAX_ERROR:]}" if error else "",
    )


def command_of(arguments: list[str]) -> list[str]:
    """The command line of a bench."""
    return [sys.executable, "-m", "prolong.launch.cli", "bench", *arguments]


def result_line(output: bytes, code: int) -> tuple[JsonObject, str]:
    """The last line of a bench's output as its result, or why there is none."""
    if code != 0:
        return {}, f"exit code {code}"
    lines = output.decode(errors="replace").splitlines()
    try:
        result = json.loads(lines[-1] if lines else "")
    except ValueError:
        return {}, f"expected a line of JSON, got {lines[-1:]!r:.300}"
    return (result, "") if isinstance(result, dict) else ({}, f"expected a JSON object, got {result!r:.300}")


def measure_due(results: BenchFile, path: Path, todo: list[Due]) -> int:
    """Measure what is due and write it down one by one. Returns how many failed."""
    failed, began = 0, monotonic()
    planned_s = sum(MEASUREMENTS[name].seconds for _, name in todo)
    logs = path.with_name(f"{path.name}.logs")
    logs.mkdir(parents=True, exist_ok=True)
    spent_s = 0.0  # of the plan
    for number, (round_, name) in enumerate(todo, start=1):
        # as fast as the plan says, until the first ones are done
        pace = (monotonic() - began) / spent_s if spent_s else 1.0
        _say(f"[{number}/{len(todo)}] {name}, round {round_}; about {(planned_s - spent_s) * pace / 60:.1f} minutes left")
        result = measure(name, MEASUREMENTS[name], round_, logs / f"{name}-{round_}.log")
        spent_s += MEASUREMENTS[name].seconds
        failed += bool(result.error)
        if result.error:
            _say(f"  failed after {result.wall_s:.0f} s: {result.error.splitlines()[0]}; see {logs}/{name}-{round_}.log")
        elif absent := _absent(result):
            _say(f"  without {', '.join(absent)}: the bench did not print it on this machine")
        kept = [each for each in results.results if (each.round, each.measurement) != (round_, name)]
        results.results = [*kept, result]
        write_results(path, results)
    return failed


def measurement_list(rounds: int, only: list[str]) -> str:
    """Each measurement with its seconds, its command and its figures, then what a run with these arguments would take."""
    wanted, left_out = chosen(only)
    lines = []
    for name, each in MEASUREMENTS.items():
        note = f"; first run {left_out[name]}" if name in left_out else "" if name in wanted else f"; only with --only {name}"
        figures = sorted({figure for named in each.figures.values() for figure in named})
        lines += [f"{name}: {each.seconds:.0f} s{note}", f"    {each.command}", *(f"    - {figure}" for figure in figures)]
    minutes = sum(each.seconds for each in wanted.values()) / 60
    lines.append(f"{len(wanted)} measurements, {rounds} rounds: about {rounds * minutes:.0f} minutes on two quiet cores")
    return "\n".join(lines) + "\n"


def _absent(result: BenchResult) -> list[str]:
    """The figures of a measurement that its result does not have."""
    named = MEASUREMENTS[result.measurement].figures
    return sorted(name for system, figures in named.items() for name in figures.keys() - result.figures.get(system, {}).keys())


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="prolong bench all", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    does = parser.add_mutually_exclusive_group(required=True)
    does.add_argument("--out", type=Path, help="the file, which may hold earlier rounds")
    does.add_argument(
        "--list", action="store_true", help="measure nothing; print what would be measured, and how long it takes"
    )
    parser.add_argument("--rounds", type=int, default=3, help="in all; one gives no spread to judge a difference by")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help=f"some of {', '.join(MEASUREMENTS)}")
    parser.add_argument("--json", action="store_true", help="print the file to standard output at the end")
    args = parser.parse_args(argv)
    if args.list:
        sys.stdout.write(measurement_list(args.rounds, args.only))
        return 0
    wanted, left_out = chosen(args.only)
    for name, remedy in left_out.items():
        _say(f"{name} is left out; first run {remedy}")
    results = opened(args.out, shlex.join(["prolong", "bench", "all", *argv]))
    failed = measure_due(results, args.out, due(results, list(wanted), args.rounds))
    _say(f"{args.out}: {len(results.results)} results, {failed} failed; see `prolong bench compare {args.out}`")
    if args.json:
        sys.stdout.write(args.out.read_text())
    return int(failed > 0 or not results.results)

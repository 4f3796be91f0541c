"""Compare two files of `prolong bench all`, or show one: every figure with its ratio, and whether that is more than noise.

    prolong bench compare before.json after.json
    prolong bench compare mine.json:trl mine.json     # another system's figures in the same file against prolong's
    prolong bench compare mine.json

The interval holds the ratio of the two means with 95 %, by Welch's test on the logarithms of the rounds' values; a ratio whose
interval holds 1 is called noise. One in twenty figures falls outside by chance: measure a surprising one again, with
`prolong bench all --only NAME --rounds 5 --out another.json`. One round has no spread, so nothing is said about it.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..common.errors import UserError
from ..common.json_object import JsonObject
from .marked_page import replace_marked
from .measure import report
from .measurements import OURS, direction_of
from .results_file import BenchFile, read_results

BEGIN, END = "<!-- results -->", "<!-- end of results -->"  # on a page that shows the results of a file
BUSY = 0.3  # processes of others that wanted a core, above which a warning is due
# two-sided 95 % quantiles of Student's t for 1, 2, ... degrees of freedom; after the last one 2.0 is close enough
STUDENT = (
    12.71,
    4.30,
    3.18,
    2.78,
    2.57,
    2.45,
    2.36,
    2.31,
    2.26,
    2.23,
    2.20,
    2.18,
    2.16,
    2.14,
    2.13,
    2.12,
    2.11,
    2.10,
    2.09,
    2.09,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparedFigure:
    """One figure of two files. `ratio` is the second over the first; its interval is None after a single round."""

    name: str
    first: float  # median of the rounds
    second: float
    ratio: float
    interval: tuple[float, float] | None
    more_is_better: bool | None

    @property
    def verdict(self) -> str:
        if self.interval is None:
            return "one round"
        low, high = self.interval
        if low <= 1.0 <= high:
            return "noise" if low < high else "the same"
        if self.more_is_better is None:
            return "differs"
        return "better" if (self.ratio > 1.0) is self.more_is_better else "worse"


def compare_rounds(name: str, first: Sequence[float], second: Sequence[float]) -> ComparedFigure:
    """Compare the rounds of one figure."""
    interval = ratio_interval(first, second)
    return ComparedFigure(
        name=name,
        first=statistics.median(first),
        second=statistics.median(second),
        ratio=_ratio(first, second),
        interval=interval,
        more_is_better=direction_of(name),
    )


def _ratio(first: Sequence[float], second: Sequence[float]) -> float:
    """Of the geometric means; of the medians where a value is not positive."""
    if min(*first, *second) > 0:
        return statistics.geometric_mean(second) / statistics.geometric_mean(first)
    return statistics.median(second) / (statistics.median(first) or math.nan)


def ratio_interval(first: Sequence[float], second: Sequence[float]) -> tuple[float, float] | None:
    """The 95 % interval of the ratio of the geometric means: Welch's t on the logarithms. None without spread to judge by.

    Source: Welch 1947, "The generalization of 'Student's' problem when several different population variances are involved".
    """
    if min(len(first), len(second)) < 2 or min(*first, *second) <= 0:
        return None
    logs = [[math.log(value) for value in values] for values in (first, second)]
    errors = [statistics.variance(values) / len(values) for values in logs]  # squared standard errors of the means
    middle = statistics.mean(logs[1]) - statistics.mean(logs[0])
    if sum(errors) == 0:
        return math.exp(middle), math.exp(middle)
    degrees = sum(errors) ** 2 / sum(error**2 / (len(values) - 1) for error, values in zip(errors, logs, strict=True))
    half = student_quantile(degrees) * math.sqrt(sum(errors))
    return math.exp(middle - half), math.exp(middle + half)


def student_quantile(degrees: float) -> float:
    """For the next smaller whole number of degrees of freedom, which makes the interval a little wider."""
    index = max(1, math.floor(degrees)) - 1
    return STUDENT[index] if index < len(STUDENT) else 2.0


def parse_side(text: str) -> tuple[BenchFile, str]:
    """FILE or FILE:SYSTEM. Raises: UserError."""
    name, _, system = text.rpartition(":")
    path, system = (Path(text), OURS) if not name or Path(text).exists() else (Path(name), system)
    results = read_results(path)
    if system not in results.systems:
        raise UserError(
            f"{text}: it has figures of {', '.join(results.systems) or 'no system yet'}; expected FILE or FILE:SYSTEM"
        )
    return results, system


def compared_figures(first: BenchFile, second: BenchFile, systems: tuple[str, str]) -> list[ComparedFigure]:
    """The figures that both have."""
    before, after = first.values(systems[0]), second.values(systems[1])
    return [compare_rounds(name, before[name], after[name]) for name in before if name in after]


def warnings_of(files: Sequence[BenchFile]) -> list[str]:
    """What makes a comparison doubtful."""
    found = [
        f"others wanted {each.others:.1f} cores during a measurement of {each.dates()}: its times say little"
        for each in files
        if each.others > BUSY
    ]
    if files[0].machine != files[-1].machine:
        found.append("the machines differ: times are those of machines, and only ratios inside of one file are prolong's")
    return found


def about(results: BenchFile) -> list[str]:
    """Machine, date, versions and command of a file."""
    machine = results.machine
    gpus = f", {', '.join(machine.gpus)}" if machine.gpus else ", no GPU"
    versions = ", ".join(f"{name} {text}" for name, text in results.versions.items())
    hardware = f"{machine.cpu}, {machine.cores} cores, {machine.memory_gb:.0f} GB{gpus}, Linux {machine.kernel}"
    return [f"{results.dates()}: {results.command}", hardware, versions]


def three_digits(value: float) -> str:
    """Three significant digits, without an exponent."""
    if value == 0 or not math.isfinite(value):
        return str(value)
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{digits}f}"


def aligned_table(rows: Sequence[Sequence[str]], *, markdown: bool) -> str:
    """Rows under a header, the first column to the left, the others to the right."""
    if markdown:
        lines = [" | ".join(row) for row in rows]
        lines.insert(1, " | ".join(["---", *["---:"] * (len(rows[0]) - 1)]))
        return "".join(f"| {line} |\n" for line in lines)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    aligned = [
        [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))] for row in rows
    ]
    return "".join("  ".join(row).rstrip() + "\n" for row in aligned)


def page_of_two(files: tuple[BenchFile, BenchFile], systems: tuple[str, str], *, markdown: bool) -> str:
    compared = compared_figures(*files, systems)
    header = ["figure", *(systems if systems[0] != systems[1] else ("first", "second")), "ratio", "95 %", ""]
    body = []
    for each in compared:
        interval = "" if each.interval is None else "{:.2f} to {:.2f}".format(*each.interval)
        body.append(
            [each.name, three_digits(each.first), three_digits(each.second), f"{each.ratio:.2f}", interval, each.verdict]
        )
    return aligned_table([header, *body], markdown=markdown)


def page_of_one(results: BenchFile, system: str, *, markdown: bool) -> str:
    rows = [["figure", "median", "lowest", "highest", "rounds"]]
    for name, values in results.values(system).items():
        rows.append([name, *map(three_digits, (statistics.median(values), min(values), max(values))), str(len(values))])
    return aligned_table(rows, markdown=markdown)


def results_part(results: BenchFile) -> str:
    """The results of a file as a part of a page: about it, prolong's figures, and those of each other system beside them."""
    others = [system for system in results.systems if system != OURS]
    parts = ["".join(f"- {line}\n" for line in about(results))]
    parts += [f"**Beware**: {text}.\n" for text in warnings_of([results])]
    parts.append(page_of_one(results, OURS, markdown=True))
    for other in others:
        parts.append(f"Beside {other}, in the same rounds (`ratio` is {OURS} over {other}):\n")
        parts.append(page_of_two((results, results), (other, OURS), markdown=True))
    return "\n".join(parts)


def as_result(rows: Sequence[ComparedFigure], files: Sequence[BenchFile]) -> JsonObject:
    figures = {
        row.name: {
            "first": row.first,
            "second": row.second,
            "ratio": row.ratio,
            "interval": row.interval,
            "verdict": row.verdict,
        }
        for row in rows
    }
    return {"bench": "compare", "figures": figures, "warnings": warnings_of(files)}


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="prolong bench compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+", metavar="FILE[:SYSTEM]", help="one or two; SYSTEM is prolong where it is left out")
    parser.add_argument("--page", type=Path, metavar="FILE.md", help="write the results of one file between its two marks")
    parser.add_argument("--markdown", action="store_true", help="tables as in docs/benchmarks.md")
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    args = parser.parse_args(argv)
    if len(args.files) > (1 if args.page else 2):
        parser.error(f"{len(args.files)} files: expected one, or two without --page")
    sides = [parse_side(text) for text in args.files]
    # one file may be both sides, with two of its systems
    files = [results for number, (results, _) in enumerate(sides) if number == 0 or results != sides[0][0]]
    if args.page:
        replace_marked(args.page, BEGIN, END, results_part(files[0]))
        return 0
    if len(sides) == 1:
        [(results, system)] = sides
        page = page_of_one(results, system, markdown=args.markdown)
        figures: JsonObject = {"bench": "compare", "figures": results.values(system), "warnings": warnings_of(files)}
    else:
        (first, before), (second, after) = sides
        page = page_of_two((first, second), (before, after), markdown=args.markdown)
        figures = as_result(compared_figures(first, second, (before, after)), files)
    if args.json:
        report(figures, as_json=True)
        return 0
    for results in files:
        sys.stdout.write("\n".join(about(results)) + "\n")
    sys.stdout.write("".join(f"warning: {text}\n" for text in warnings_of(files)) + "\n" + page)
    return 0

"""The tables and the picture of `prolong bench staleness`, made of its rows."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .assumed_speed import speed
from .marked_page import replace_marked

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Row = dict
TARGET = 0.85
WINDOW = 3  # versions that the reward is averaged over
# the corrections that are compared, in the colours of the picture
COLOURS = {"decoupled": "C0", "bypass": "C1", "uncorrected": "C3", "approximate": "C2"}
GRID_ARMS = tuple(COLOURS)
DEFAULT_ARM = "bypass"
# in the page, around what is made of the rows
BEGIN, END = "<!-- made by `prolong bench staleness --draw` -->", "<!-- end of what is made -->"


def steps_to_target(row: Row) -> int:
    """The first version whose reward, averaged over it and the two before, is TARGET; the run's length where none is."""
    curve = row["curve"]
    for version in range(WINDOW - 1, len(curve)):
        if statistics.fmean(curve[version - WINDOW + 1 : version + 1]) >= TARGET:
            return version
    return len(curve)


# the rows of the picture
MEASURES: dict[str, Callable[[Row], float]] = {
    "held-out reward at the end": lambda row: row["heldout"],
    f"steps to a reward of {TARGET}": steps_to_target,
    "effective sample size": lambda row: row["ess"],
}


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Mean and its standard error; the error of a single value is unknown and counts as 0."""
    return statistics.fmean(values), statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0


def with_error(values: Sequence[float], digits: int) -> str:
    """Mean and standard error as a text; a single value stands alone."""
    mean, error = mean_and_error(values)
    return f"{mean:.{digits}f}" + (f" ±{error:.{digits}f}" if len(values) > 1 else "")


def of_cell(rows: Iterable[Row], task: str, lr: float, eta: int, arm: str) -> list[Row]:
    """The rows of all seeds of a cell. Every arm of eta 0 is the same computation."""
    arm = "on_policy" if eta == 0 else arm
    return [row for row in rows if (row["task"], row["lr"], row["eta"], row["arm"]) == (task, lr, eta, arm)]


def adaptive_cell(rows: Iterable[Row], task: str, lr: float, arm: str) -> list[Row]:
    """The rows of a correction under an eta that adapts."""
    return [row for row in rows if (row["task"], row["lr"], row["arm"]) == (task, lr, f"{arm}_adaptive")]


def parts_of(rows: Iterable[Row]) -> list[tuple[str, float]]:
    """The pairs of task and learning rate that there are rows of."""
    return sorted({(row["task"], row["lr"]) for row in rows}, key=lambda part: (part[0] != "sums", part))


def part_name(task: str, lr: float) -> str:
    """A task and a learning rate, as headings say it: "sums 5e-4"."""
    return f"{task} {lr:.0e}".replace("e-0", "e-")


def etas_of(rows: Iterable[Row]) -> list[int]:
    """The fixed etas that there are rows of."""
    return sorted({row["eta"] for row in rows if "etas" not in row})


def arms_of(rows: Sequence[Row], task: str, lr: float) -> list[str]:
    """The corrections that there are stale runs of."""
    own = {row["arm"] for row in rows if (row["task"], row["lr"]) == (task, lr)}
    return [arm for arm in GRID_ARMS if arm in own]


def grid_tables(rows: Sequence[Row]) -> str:
    """For each task and learning rate, a table of eta against correction: reward at the end, steps to the target, ESS."""
    texts = []
    for task, lr in parts_of(rows):
        arms = arms_of(rows, task, lr)
        texts += [f"**{part_name(task, lr)}**", "", "| eta | " + " | ".join(arms) + " |"]
        texts.append("| ---: |" + " --- |" * len(arms))
        lines = {str(eta): [of_cell(rows, task, lr, eta, arm) for arm in arms] for eta in etas_of(rows)}
        lines["adaptive"] = [adaptive_cell(rows, task, lr, arm) for arm in arms]
        texts += [f"| {name} | " + " | ".join(map(cell_text, cells)) + " |" for name, cells in lines.items() if any(cells)]
        texts.append("")
    return "\n".join(texts).rstrip()


def cell_text(rows: Sequence[Row]) -> str:
    """Reward at the end with its standard error, steps to the target (with how many of the runs reached it), mean ESS."""
    if not rows:
        return "-"
    end = with_error([row["heldout"] for row in rows], 3)
    steps = [steps_to_target(row) for row in rows]
    missed = sum(step == len(row["curve"]) for step, row in zip(steps, rows, strict=True))
    unreached = f" ({missed} of {len(rows)} never)" if missed else ""
    return f"{end}, {statistics.fmean(steps):.1f}{unreached}, {statistics.fmean(row['ess'] for row in rows):.2f}"


def arms_table(rows: Sequence[Row], arms: Sequence[str], etas: Sequence[int]) -> str:
    """Arms against task, learning rate and eta, where an arm has run, below the default: reward at the end, steps, ESS."""
    columns = [(task, lr, eta) for task, lr in parts_of(rows) for eta in etas]
    columns = [column for column in columns if any(of_cell(rows, *column, arm) for arm in arms)]
    texts = ["| arm | " + " | ".join(f"{part_name(task, lr)}, eta {eta}" for task, lr, eta in columns) + " |"]
    texts.append("| --- |" + " --- |" * len(columns))
    for arm in (DEFAULT_ARM, *arms):
        texts.append(f"| {arm} | " + " | ".join(cell_text(of_cell(rows, *column, arm)) for column in columns) + " |")
    return "\n".join(texts)


def length_table(rows: Sequence[Row], eta: int) -> str:
    """By quarters of length: share of tokens that keep their gradient, and ESS, of the grid's arms at one eta."""
    texts = ["| task, rate, arm | tokens | kept | ESS |", "| --- | --- | --- | --- |"]
    for task, lr in parts_of(rows):
        for arm in arms_of(rows, task, lr):
            found = of_cell(rows, task, lr, eta, arm)
            if found:
                columns = [
                    " / ".join(f"{statistics.fmean(row['by_length'][key][i] for row in found):.{digits}f}" for i in range(4))
                    for key, digits in (("tokens", 0), ("kept", 3), ("ess", 2))
                ]
                texts.append(f"| {part_name(task, lr)} {arm} | " + " | ".join(columns) + " |")
    return "\n".join(texts)


def paired(rows: Sequence[Row], one: str, other: str, measure: Callable[[Row], float]) -> dict[str, tuple[float, float, int]]:
    """By task and learning rate, the mean difference one - other over all etas above 0 and seeds that both have.

    Also its standard error and the number of pairs.
    """
    result = {}
    for task, lr in parts_of(rows):
        pairs = []
        for eta in etas_of(rows):
            if eta == 0:
                continue
            left, right = ({row["seed"]: row for row in of_cell(rows, task, lr, eta, arm)} for arm in (one, other))
            pairs += [measure(left[seed]) - measure(right[seed]) for seed in left.keys() & right.keys()]
        if pairs:
            result[part_name(task, lr)] = (*mean_and_error(pairs), len(pairs))
    return result


def differences(rows: Sequence[Row]) -> str:
    """The default correction against the others, seed by seed, over all etas above 0."""
    measures: dict[str, Callable[[Row], float]] = {"reward at the end": lambda row: row["heldout"], "steps": steps_to_target}
    parts = [part_name(task, lr) for task, lr in parts_of(rows)]
    texts = [f"| {DEFAULT_ARM} minus | of | " + " | ".join(parts) + " |", "| --- | --- |" + " --- |" * len(parts)]
    for other in GRID_ARMS:
        for name, measure in measures.items() if other != DEFAULT_ARM else ():
            found = paired(rows, DEFAULT_ARM, other, measure)
            cells = [
                f"{found[part][0]:+.2f} ±{found[part][1]:.2f} ({found[part][2]})" if part in found else "-" for part in parts
            ]
            texts.append(f"| {other} | {name} | " + " | ".join(cells) + " |")
    return "\n".join(texts)


def time_to_target(row: Row) -> float:
    """Steps to the target, each in the time that its eta takes; in steps of the synchronous system."""
    etas = row.get("etas", [row["eta"]] * len(row["curve"]))
    return sum(1.0 / speed(eta) for eta in etas[: steps_to_target(row)])


def time_table(rows: Sequence[Row]) -> str:
    """Time to the target by eta, and under an eta that adapts. A part whose runs all take the same steps is left out."""
    etas = etas_of(rows)
    texts = ["| task, rate, arm | " + " | ".join(f"eta {eta}" for eta in etas) + " | adaptive |"]
    texts.append("| --- |" + " --- |" * (len(etas) + 1))
    for task, lr in parts_of(rows):
        if len({steps_to_target(row) for row in rows if (row["task"], row["lr"]) == (task, lr)}) == 1:
            continue
        for arm in arms_of(rows, task, lr):
            cells = [*(of_cell(rows, task, lr, eta, arm) for eta in etas), adaptive_cell(rows, task, lr, arm)]
            times = [with_error(list(map(time_to_target, each)), 1) if each else "-" for each in cells]
            texts.append(f"| {part_name(task, lr)} {arm} | " + " | ".join(times) + " |")
    return "\n".join(texts)


def fill_page(path: Path, tables: str) -> None:
    """Replace what lies between the marks of a page by `tables`, if there is such a page."""
    if path.exists():
        replace_marked(path, BEGIN, END, f"{tables.strip()}\n")


def write_docs_rows(rows: Iterable[Row], path: Path) -> None:
    """Write the rows in order, one a line."""
    ordered = sorted(rows, key=lambda row: (row["task"], row["lr"], row["eta"], row["arm"], row["seed"]))
    path.write_text("".join(json.dumps(row) + "\n" for row in ordered))


def draw_staleness(rows: Sequence[Row], path: Path) -> None:
    """Plot reward at the end, steps to the target and ESS over eta: a column for each task and rate, a line for each arm."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    parts = parts_of(rows)
    size = 3.4 * len(parts), 2.8 * len(MEASURES)
    figure, axes = pyplot.subplots(len(MEASURES), len(parts), figsize=size, dpi=110, squeeze=False, sharex=True, sharey="row")
    for column, (task, lr) in enumerate(parts):
        axes[0][column].set_title(part_name(task, lr), fontsize=10)
        axes[-1][column].set_xlabel("eta")
        for line, (name, measure) in enumerate(MEASURES.items()):
            _draw_panel(axes[line][column], rows, task, lr, measure)
            axes[line][0].set_ylabel(name)
    axes[0][0].legend(fontsize=8, loc="lower left")
    figure.suptitle("prolong bench staleness: mean of the seeds and its standard error", fontsize=11)
    figure.tight_layout()
    figure.savefig(path)


def _draw_panel(panel: Axes, rows: Sequence[Row], task: str, lr: float, measure: Callable[[Row], float]) -> None:
    etas = etas_of(rows)
    for shift, arm in enumerate(GRID_ARMS):
        found = [(at, of_cell(rows, task, lr, eta, arm)) for at, eta in enumerate(etas)]
        # side by side, so that bars do not hide each other
        points = [(at + 0.06 * (shift - 1.5), *mean_and_error([measure(row) for row in own])) for at, own in found if own]
        x, y, error = zip(*points, strict=True) if points else ((), (), ())
        panel.errorbar(x, y, yerr=error, fmt="o-", markersize=3, linewidth=1.2, color=COLOURS[arm], label=arm)
    panel.set_xticks(range(len(etas)), [str(eta) for eta in etas])
    panel.grid(alpha=0.25)

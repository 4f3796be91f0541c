"""An evaluation as a table: for every domain and task a row of each model."""

from __future__ import annotations

from collections.abc import Sequence, Set
from itertools import compress
from math import isclose
from pathlib import Path

from rich import box
from rich.markup import escape
from rich.table import Table

from ..terminal import TerminalConsole
from .intervals import Estimate
from .results import Evaluated, scopes_of
from .scores import ScopeScore

MOST_KS = 3  # columns of pass@k besides the smallest k
WIDE = 160  # characters, as many as the widest table has
NONE: frozenset[str] = frozenset()


def print_evaluation(results: Sequence[Evaluated], n: int, folder: Path) -> None:
    """Print the table and where everything is."""
    console = TerminalConsole()
    # a file has no width
    wide = TerminalConsole(width=max(console.width, WIDE), soft_wrap=True)
    for table in fitting_tables(results, n, console.width if console.is_terminal else WIDE):
        wide.print(table)
    lost = sum(each.unjudged for each in results)
    if lost:
        console.print(f"{lost} rollouts have no reward, because their verifier failed twice: they count nowhere")
    console.print("In percent, with 95 % intervals over prompts.", highlight=False)
    if len(results) > 1:
        sign = "; + or - behind it: the interval is on one side of 0"
        console.print(
            f"gain: mean@{n} less that of {results[0].name} on the same prompts{sign}",
            highlight=False,
            soft_wrap=True,
            markup=False,
        )
    for where in (f"every number: {folder}/evaluation.json", f"picture: {folder}/evaluation.svg"):
        console.print(where, highlight=False, soft_wrap=True, markup=False)


def fitting_tables(results: Sequence[Evaluated], n: int, width: int) -> list[Table]:
    """One table, or two where one is wider than `width`: the means with the gains, and everything else."""
    whole = evaluation_table(results, n)
    if TerminalConsole(width=WIDE).measure(whole).maximum <= width:
        return [whole]
    first = {f"mean@{n}", "gain"}
    return [evaluation_table(results, n, shown=first), evaluation_table(results, n, hidden=first)]


def evaluation_table(results: Sequence[Evaluated], n: int, *, shown: Set[str] = NONE, hidden: Set[str] = NONE) -> Table:
    """The models of each scope below each other; with several, what each gained over the first.

    shown: the columns besides scope and model, if not all; hidden: those that are left out.
    """
    ks = _shown_ks(results)
    votes = any(score.maj_at for each in results for score in each.scores)
    several = len(results) > 1
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("scope", *(["model"] if several else [])):
        table.add_column(column, no_wrap=True)
    names = ["prompts", f"mean@{n}", *(f"pass@{k}" for k in ks), *([f"maj@{max(ks)}"] if votes else []), "tokens", "cut off"]
    names += ["gain"] if several else []
    kept = [(not shown or name in shown) and name not in hidden for name in names]
    for name in compress(names, kept):
        table.add_column(name, justify="right", no_wrap=True)
    for scope in scopes_of(results):
        for index, each in enumerate(results):
            score = each.score(scope)
            if score is not None:
                cells = _cells(score, ks, votes=votes) + ([gain_text(each.differences.get(scope))] if several else [])
                table.add_row(*_names(scope, each.name, index, several=several), *compress(cells, kept))
        if several:
            table.add_section()
    return table


def _shown_ks(results: Sequence[Evaluated]) -> list[int]:
    """The smallest k, the largest, and some between them."""
    scores = [score for each in results for score in each.scores]
    # where rewards are 0 or 1, the mean reward is pass@1
    binary = all(isclose(score.reward.value, score.pass_at[1].value, abs_tol=1e-9) for score in scores if 1 in score.pass_at)
    ks = sorted({k for score in scores for k in score.pass_at if k > 1 or not binary}) or [1]
    if len(results) > 1:  # beside each other, models need the room
        return sorted({*([] if binary else ks[:1]), ks[-1]})
    return ks if len(ks) <= MOST_KS + 1 else [*ks[:1], *ks[-MOST_KS:]]


def _names(scope: str, model: str, index: int, *, several: bool) -> list[str]:
    bold = escape(scope) if "/" in scope else f"[bold]{escape(scope)}"
    return [bold if index == 0 else "", escape(model)] if several else [bold]


def _cells(score: ScopeScore, ks: Sequence[int], *, votes: bool) -> list[str]:
    cells = [f"{score.num_prompts:,}", interval_text(score.reward)]
    cells += [percent_text(score.pass_at.get(k)) for k in ks]
    cells += [percent_text(score.maj_at.get(max(ks)))] if votes else []
    return [*cells, f"{score.tokens:,.0f}", f"{score.cut_off:.0%}"]


def percent_text(estimate: Estimate | None) -> str:
    """41.2, in percent; a dash for None."""
    return "-" if estimate is None else f"{100 * estimate.value:.1f}"


def interval_text(estimate: Estimate) -> str:
    """41.2 [38.0, 44.5], in percent."""
    return f"{100 * estimate.value:.1f} \\[{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"


def gain_text(gain: Estimate | None) -> str:
    """+3.1 [+1.0, +5.2] +, in percent, with a sign behind it where the interval does not hold 0."""
    if gain is None:
        return ""
    sign = " +" if gain.low > 0 else " -" if gain.high < 0 else ""
    return f"{100 * gain.value:+.1f} \\[{100 * gain.low:+.1f}, {100 * gain.high:+.1f}]{sign}"

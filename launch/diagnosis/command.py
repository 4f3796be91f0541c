"""`prolong diagnose RUN`: the diagnosis as text or JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

from rich import box
from rich.markup import escape
from rich.table import Table

from ..status import find_run
from ..terminal import TerminalConsole
from .diagnose import diagnose
from .diagnosis import Diagnosis, Improvement, Side

LEAST_SHARE = 0.005  # of a side's seconds: less is not worth a line
LEAST_GAIN = 1.02  # below it a move is called no gain


def show_diagnosis(name: str, *, as_json: bool, predicts: bool, cores: float | None) -> int:
    """Print what can be said of a run; 0. Raises: UserError, ConfigError."""
    said = diagnose(find_run(name).folder, predicts=predicts, cores=cores)
    if as_json:
        sys.stdout.write(json.dumps(said.as_json()) + "\n")
        return 0
    console = TerminalConsole(highlight=False)
    for part in diagnosis_page(said):
        console.print(part, soft_wrap=isinstance(part, str))
    return 0


def diagnosis_page(said: Diagnosis) -> Iterator[str | Table]:
    """The lines and tables of a diagnosis, in the order of a reader's questions."""
    rate = f", {said.steps_per_s:.4g} steps/s" if said.steps_per_s else ""
    yield f"[bold]{escape(said.run)}[/bold]: {said.steps} steps in {said.wall_s:,.0f} s{rate}"
    if said.roof is not None:
        yield f"[bold]{said.roof.words}[/bold]"
        yield from (f"  {sentence}" for sentence in said.roof.evidence)
    yield from map(side_table, said.sides)
    yield from _moves(said)
    yield "[bold]signs of trouble[/bold]" + ("" if said.findings else ": none that the rules know")
    for found in said.findings:
        when = f"{found.step}" if found.step == found.last_step else f"{found.step} to {found.last_step}"
        yield f"[bold]step {when}: {escape(found.title)}[/bold]"
        tried = f" ({' '.join(found.settings)})" if found.settings else ""
        yield escape(f"  {found.words}\n  what to do: {found.advice}{tried}")


def side_table(side: Side) -> Table:
    """What a side spent its seconds on."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(escape(side.name if side.processes == 1 else f"{side.name} ({side.processes:.3g})"))
    table.add_column("seconds", justify="right")
    table.add_column("share", justify="right")
    table.add_column("", overflow="fold")
    for part in side.spent:
        share = side.share(part.name)
        if share >= LEAST_SHARE:
            table.add_row(part.name, f"{part.seconds:,.1f}", f"{share:.0%}", part.meaning)
    return table


def _moves(said: Diagnosis) -> Iterator[str | Table]:
    if not said.moves:
        yield escape(f"no gain is predicted: {said.no_moves}")
        return
    best = said.moves[0]
    if best.gain < LEAST_GAIN:
        yield "no single change is expected to gain anything"
        return
    yield f"[bold]most to be gained: {best.gain:.2f}x[/bold], by {escape(best.words)}"
    model = f"the model of the run makes {said.simulated_steps_per_s:.4g} steps/s"
    yield f"  {model}, the run made {said.steps_per_s:.4g}: gains are as good as that"
    if said.roof is not None and said.simulated_part != said.roof.part:
        yield f"  in the model {said.simulated_part} would bind, not {said.roof.part}: it misses something, believe gains less"
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("gain", "steps/s", "staleness"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("change of one thing", overflow="fold")
    table.add_column("then binds", no_wrap=True)
    for move in (move for move in said.moves if move.gain >= LEAST_GAIN):
        numbers = (f"{move.gain:.2f}x", f"{move.steps_per_s:.4g}", f"{move.staleness_mean:.2f}")
        table.add_row(*numbers, escape(_move_text(move)), move.binds_after)
    yield table
    if idle := [move.words for move in said.moves if move.gain < LEAST_GAIN]:
        yield escape(f"  nothing would be gained by: {'; '.join(idle)}")


def _move_text(move: Improvement) -> str:
    return f"{move.words}\n{' '.join(move.settings)}" if move.settings else move.words

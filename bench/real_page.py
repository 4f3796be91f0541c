"""The part of docs/real-model.md that is measured, written between two marks from the rows of `prolong bench real-model`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from .marked_page import replace_marked

BEGIN, END = "<!-- written by: prolong bench real-model -->", "<!-- end -->"
SHOWN = 90  # characters of a rollout in the table


def write_real_page(page: Path, rows: Sequence[dict], measured: str) -> None:
    """Replace what stands between the marks of `page`. `measured`: machine, date and command, as a sentence."""
    lines = "".join(f"{line}\n" for line in results_lines(rows, measured))
    replace_marked(page, BEGIN, END, f"\n{lines}\n")


def results_lines(rows: Sequence[dict], measured: str) -> Iterator[str]:
    """Lines of Markdown: a table of scores for each seed, the picture, and rollouts of the first seed."""
    yield measured
    for row in rows:
        yield ""
        minutes = f"{row['wall_s'] / 60:.0f} minutes"
        yield f"Seed {row['seed']}, {row['steps']} steps in {minutes}; percent right, with 95 % intervals over prompts:"
        yield ""
        yield "| | before | after | gain |"
        yield "| --- | --- | --- | --- |"
        for scope, score in row["scores"].items():
            yield f"| {scope} | {percent(score['before'])} | {percent(score['after'])} | {percent(score['gain'], sign='+')} |"
    yield ""
    yield "![held-out share of right answers over steps](real-model.png)"
    yield ""
    seed = f"seed {rows[0]['seed']}"
    yield f"The first rollouts of the first held-out questions, before and after ({seed}; right answers in bold):"
    yield ""
    yield "| question | before | after |"
    yield "| --- | --- | --- |"
    for told in rows[0]["rollouts"]:
        yield f"| {cell(told['prompt'])} | {rollout_cell(told['before'])} | {rollout_cell(told['after'])} |"
    yield ""
    yield "Data: [real-model.jsonl](real-model.jsonl), one seed a line."


def percent(estimate: Mapping[str, float], sign: str = "") -> str:
    """A score and its interval: 41.2 [38.6, 43.9]."""
    value, low, high = (format(100 * estimate[name], f"{sign}.1f") for name in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def rollout_cell(rollout: Mapping) -> str:
    shown = cell(rollout["text"])
    return f"**{shown}**" if rollout["reward"] == 1 else shown


def cell(text: str) -> str:
    """A text that fits a cell of a Markdown table, without marks of its own."""
    plain = " ".join(text.split())
    plain = plain if len(plain) <= SHOWN else f"{plain[:SHOWN].rstrip()} ..."
    return "".join(f"\\{character}" if character in "\\`*_|<>[]$" else character for character in plain)

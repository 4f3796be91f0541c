"""An evaluation as one SVG picture, which no library draws: mean reward by model with intervals, and pass@k over k."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from math import log2

from .intervals import Estimate
from .results import Evaluated, scopes_of

COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#ff7f0e", "#9467bd", "#17becf", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22")
WIDTH, HEIGHT = 960, 420
TOP, BOTTOM = 40, 330  # y of 100 % and of 0 %
LEFT_PANEL, RIGHT_PANEL = (60, 520), (600, 930)  # x of the ends
SPREAD = 5  # between the marks of two lines, so that their intervals do not cover each other
MOST_LINES = len(COLOURS)


def draw_evaluation(results: Sequence[Evaluated]) -> str:
    """The SVG file. Scopes are domains, and their mean; of more than MOST_LINES scopes or models on a panel, the last ones."""
    every = scopes_of(results)
    # the name of a domain may hold a slash, as those of tasks do
    scopes = ([scope for scope in every if "/" not in scope] or every)[-MOST_LINES:]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        *_frame(LEFT_PANEL, "mean reward, % (95 % over prompts)"),
        *_by_model(results, scopes),
        *_frame(RIGHT_PANEL, f"pass@k, % ({scopes[-1]})"),
        *_by_k(results, scopes[-1]),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _frame(panel: tuple[float, float], title: str) -> Iterable[str]:
    left, right = panel
    yield _text((left + right) / 2, TOP - 16, title, "middle", "bold")
    for percent in range(0, 101, 20):
        y = _y(percent / 100)
        yield f'<line x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>'
        yield _text(left - 6, y + 4, str(percent), "end")


def _by_model(results: Sequence[Evaluated], scopes: Sequence[str]) -> Iterable[str]:
    left, right = LEFT_PANEL
    step = (right - left) / len(results)
    centres = [left + step * (index + 0.5) for index in range(len(results))]
    for centre, each in zip(centres, results, strict=True):
        yield from _model_name(centre, each.name, tilted=step < 90)
    for line, scope in enumerate(scopes):
        colour, shift = COLOURS[line], SPREAD * (line - (len(scopes) - 1) / 2)
        scores = [each.score(scope) for each in results]
        marks = [(x + shift, score.reward) for x, score in zip(centres, scores, strict=True) if score is not None]
        yield from _line(marks, colour)
        for x, found in marks:
            yield f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_y(found.low):.1f}" y2="{_y(found.high):.1f}" stroke="{colour}"/>'
        yield from _legend(left + 8, line, scope, colour)


def _by_k(results: Sequence[Evaluated], scope: str) -> Iterable[str]:
    left, right = RIGHT_PANEL
    ks = sorted({k for each in results for score in each.scores for k in score.pass_at}) or [1]
    widest = max(log2(ks[-1]), 1.0)
    for k in ks:
        yield _text(left + (right - left) * log2(k) / widest, BOTTOM + 18, str(k), "middle")
    for line, each in enumerate(results[-MOST_LINES:]):
        score = each.score(scope)
        found = {} if score is None else score.pass_at
        marks = [(left + (right - left) * log2(k) / widest, estimate) for k, estimate in sorted(found.items())]
        yield from _line(marks, COLOURS[line])
        yield from _legend(left + 8, line, each.name, COLOURS[line])


def _line(marks: Sequence[tuple[float, Estimate]], colour: str) -> Iterable[str]:
    points = " ".join(f"{x:.1f},{_y(found.value):.1f}" for x, found in marks)
    yield f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
    for x, found in marks:
        yield f'<circle cx="{x:.1f}" cy="{_y(found.value):.1f}" r="3.5" fill="{colour}"/>'


def _model_name(x: float, name: str, *, tilted: bool) -> Iterable[str]:
    short = name if len(name) <= 24 else f"{name[:10]}...{name[-11:]}"
    if tilted:
        turned = f'transform="rotate(-30 {x:.1f} {BOTTOM + 18})"'
        yield f'<text x="{x:.1f}" y="{BOTTOM + 18}" text-anchor="end" {turned}>{escape(short)}</text>'
    else:
        yield _text(x, BOTTOM + 18, short, "middle")


def _legend(x: float, line: int, name: str, colour: str) -> Iterable[str]:
    """Below the panels, in two rows of five."""
    row, place = line % 2, line // 2
    at, y = x - 20 + place * 92, HEIGHT - 22 + 15 * row
    yield f'<rect x="{at}" y="{y - 9}" width="10" height="10" fill="{colour}"/>'
    yield _text(at + 14, y, name if len(name) <= 13 else f"{name[:5]}...{name[-6:]}", "start")


def _text(x: float, y: float, text: str, anchor: str, weight: str = "normal") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}">{escape(text)}</text>'


def _y(share: float) -> float:
    return BOTTOM - (BOTTOM - TOP) * min(1.0, max(0.0, share))

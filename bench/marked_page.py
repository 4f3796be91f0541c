"""The part of a page in docs/ that a bench writes: what stands between two marks."""

from __future__ import annotations

from pathlib import Path

from ..common.errors import UserError
from ..common.files import write_atomically


def marked_part(page: Path, begin: str, end: str) -> tuple[str, str, str]:
    """A page's text before the marks, between them, and behind them. Raises: UserError when it lacks one of the marks."""
    before, found, rest = page.read_text(encoding="utf-8").partition(begin)
    part, ended, behind = rest.partition(end)
    if not found or not ended:
        raise UserError(f"{page}: expected a page with the lines {begin} and {end}, between which results are written")
    return before, part, behind


def replace_marked(page: Path, begin: str, end: str, part: str) -> None:
    """Write `part` between the marks of a page, from the line behind the first one on. Raises: UserError as marked_part."""
    before, _, behind = marked_part(page, begin, end)
    write_atomically(page, f"{before}{begin}\n{part}{end}{behind}")

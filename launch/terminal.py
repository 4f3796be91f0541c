"""The console of commands that show what other processes and recorded files say."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from .entry import without_controls


class TerminalConsole(Console):
    """A console that writes its own colours and no control character of a text, of which rich drops five, and not ESC."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=without_controls(segment.text))

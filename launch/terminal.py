"""The console of commands that show what other processes and recorded files say."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

# what steers a terminal; rich itself drops five of them, and not ESC
_CONTROLS = dict.fromkeys(code for code in (*range(32), *range(127, 160)) if chr(code) not in "\t\n")


class TerminalConsole(Console):
    """A console that writes its own colours and no control character of a text: an actor may have any name."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=without_controls(segment.text))


def without_controls(text: str) -> str:
    """The text without characters that steer a terminal; lines stay lines."""
    return text.translate(_CONTROLS)

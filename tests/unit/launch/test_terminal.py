"""What a terminal gets of texts that others wrote."""

from __future__ import annotations

import io

from prolong.launch.entry import without_controls
from prolong.launch.terminal import TerminalConsole
from rich.live import Live
from rich.table import Table
from rich.text import Text

# clears the screen, names the window, in one byte and in two, and rings the bell
HOSTILE = "a\x1b[2Jb\x1b]0;mine\x07c\x9b2Jd\x7fe\rf"


def test_a_text_keeps_its_lines_and_loses_what_steers_a_terminal() -> None:
    assert without_controls(f"{HOSTILE}\n\tç\U0001f600") == "a[2Jb]0;minec2Jdef\n\tç\U0001f600"


def test_a_console_writes_its_own_colours_and_no_control_character_of_a_text() -> None:
    out = io.StringIO()
    console = TerminalConsole(file=out, width=60, force_terminal=True, color_system="standard", legacy_windows=False)
    table = Table("name")
    table.add_row(Text(HOSTILE, style="red"))
    console.print(HOSTILE, highlight=False)
    console.print(table)
    with Live(table, console=console, auto_refresh=False, screen=True):
        pass
    written = out.getvalue()
    assert "\x1b[31m" in written
    # of the live page itself
    assert "\x1b[?1049h" in written
    for steering in ("\x1b[2J", "\x1b]0;", "\x07", "\x9b", "\x7f", "\r"):
        assert steering not in written

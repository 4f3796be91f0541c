"""`prolong top [RUN|ADDRESS]`: attach to a running buffer as an observer, and show what the run does until `q`.

It asks for the status once a second and changes nothing; the run does not notice it, and goes on when it ends.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from time import monotonic
from typing import NamedTuple

from rich.live import Live

from ...buffer.client.observer import Observer
from ...common.config.run_files import RunPaths
from ...common.errors import UserError
from ...common.messages import StatusRequest
from ...common.metrics import MetricsTail
from ..status import buffer_note, find_run
from ..terminal import TerminalConsole
from .keyboard import Keyboard, raw_keyboard
from .page import WIDTH, Shown, View, top_page
from .speeds import StatusWindow

FIRST_ANSWER_S = 5.0  # wait for the first status
GONE_S = 15.0  # without an answer for so long, a buffer whose file is gone has ended
CALM_S = 1.5  # between the two statuses of `--once`


class TopTarget(NamedTuple):
    """Where the buffer is, the folder of keys that admits this host, and the run folder, if it is on this machine."""

    address: str
    keys: str
    paths: RunPaths | None


def show_top(target: str, *, keys: str, every_s: float, once: bool) -> int:
    """Show the page until a key or the end of the run. Raises: BufferUnreachable, UserError."""
    to = attach(target, keys)
    with Observer.open(to.address, to.keys) as observer:
        window = StatusWindow()
        window.add(monotonic(), observer.ask(StatusRequest(), FIRST_ANSWER_S))
        tail = MetricsTail(to.paths.metrics, tell=_on_the_page) if to.paths is not None else None
        top = Top(observer, window, tail)
        if once or not sys.stdout.isatty():
            return top.print_once()
        with raw_keyboard() as keyboard:
            return top.run(keyboard, every_s, ended=lambda: to.paths is not None and not to.paths.buffer.exists())


def attach(target: str, keys: str) -> TopTarget:
    """Find a buffer by its address, by the name or folder of its run, or, without either, the one that started last.

    Raises: UserError.
    """
    if target.startswith("tcp://"):
        return TopTarget(target, keys, None)
    if not target:
        notes = sorted(Path("runs").glob("*/buffer.json"), key=lambda note: note.stat().st_mtime)
        if not notes:
            raise UserError("no buffer runs in runs/; expected the name or folder of a run, or the address of its buffer")
        target = str(notes[-1].parent)
    paths = find_run(target)
    note = buffer_note(paths)
    if note is None:
        raise UserError(f"run {paths.folder.name} is not running; `prolong status {paths.folder.name}` tells how it ended")
    return TopTarget(note.address, keys or note.keys, paths)


class Top:
    """The loop of the page."""

    def __init__(self, observer: Observer, window: StatusWindow, tail: MetricsTail | None) -> None:
        """`tail`: of the run's metrics, where they are on this machine."""
        self._observer, self._window, self._tail = observer, window, tail
        self._record: Mapping[str, float] = {}
        self._heard_s = monotonic()

    def print_once(self) -> int:
        """Print one page, of two statuses."""
        Keyboard(None).keys(CALM_S)
        self._window.add(monotonic(), self._observer.ask(StatusRequest(), FIRST_ANSWER_S))
        console = TerminalConsole() if sys.stdout.isatty() else TerminalConsole(width=WIDTH)
        console.print(top_page(self._shown(), View(keyed=False), height=1 << 16))
        return 0

    def run(self, keyboard: Keyboard, every_s: float, ended: Callable[[], bool]) -> int:
        """Refresh the page.

        Consumes: statuses of the buffer, keys. Blocks on: the keyboard, for `every_s`. Stops when: a key says so, or the buffer
        has been silent for GONE_S and is gone.
        """
        view, console = View(), TerminalConsole()
        with Live(console=console, auto_refresh=False, screen=True) as live:
            while True:
                if not view.paused:
                    self._look()
                live.update(top_page(self._shown(), view, console.height), refresh=True)
                for key in keyboard.keys(every_s):
                    if not view.press(key):
                        return 0
                if monotonic() - self._heard_s > GONE_S and ended():
                    break
        run = self._shown().status.run
        console.print(
            f"the buffer of {run} has ended; `prolong status {run}` tells how the run stands", highlight=False, markup=False
        )
        return 0

    def _look(self) -> None:
        status = self._observer.poll_status()
        if status is not None:
            self._heard_s = monotonic()
            self._window.add(self._heard_s, status)

    def _shown(self) -> Shown:
        if self._tail is not None and (records := self._tail.read()[0]):
            self._record = records[-1]
        newest = self._window.newest
        assert newest is not None, "there is a first status"
        return Shown(
            status=newest.status,
            actors=self._window.actors(),
            late_weights=self._window.late_weights(),
            record=self._record,
            silent_s=monotonic() - self._heard_s,
            num_broken=0 if self._tail is None else self._tail.num_broken,
        )


def _on_the_page(text: str) -> None:
    """Nothing is written beside the page, which shows how many lines are left out."""

"""The base of every simulated process: a clock of its own, a death, and SIGSTOP."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .world import World


class Process:
    """One process. Its clock has any offset, and runs a little fast or slow."""

    def __init__(self, world: World, name: str) -> None:
        self.world, self.name, self.alive, self.paused = world, name, True, False
        skew = world.plan.skew
        self.offset, self.rate = world.rng.uniform(0.0, 1e5), world.rng.uniform(1.0 - skew, 1.0 + skew)
        self._backlog: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._pause = 0  # number of the last one

    def clock(self) -> float:
        """The time of `monotonic()` in this process, in seconds."""
        return self.offset + self.world.now * self.rate

    def later(self, delay_s: float, action: Callable[..., None], *args: Any) -> None:
        """Run an action after a time on this process's clock."""
        self.world.at(delay_s / self.rate, self.run, action, *args)

    def run(self, action: Callable[..., None], *args: Any) -> None:
        """Run an action now, or when the process goes on; a dead process runs none."""
        if not self.alive:
            return
        if self.paused:
            self._backlog.append((action, args))
        else:
            action(*args)

    def pause(self, seconds: float) -> None:
        """SIGSTOP, and SIGCONT `seconds` later."""
        self.paused = True
        self._pause += 1
        self.world.at(seconds, self._go_on, self._pause)

    def _go_on(self, pause: int) -> None:
        if pause != self._pause:
            return  # stopped again meanwhile
        self.paused = False
        while self._backlog and self.alive and not self.paused:
            action, args = self._backlog.popleft()
            action(*args)

    def die(self) -> None:
        """SIGKILL."""
        self.alive = False

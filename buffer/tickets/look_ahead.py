"""The next prompts: those of failed tickets, then those that the source gives. A few are drawn before they are needed.

So a ticket can be given the prompt that suits its actor. A prompt that others were preferred to many times is offered alone.

The journal keeps the source's cursor from before the oldest prompt that no ticket was issued for, and `skips`: those drawn
after it that tickets were issued for. A buffer that starts again, or enters a stage of other weights, draws from that cursor
and leaves those out. So no prompt is lost, and none is issued twice.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, islice

from ...common.types import Prompt
from ..journal.records import PromptCursor
from .api import PromptSource
from .retries import Retries

# times that others may be preferred to a prompt, as a multiple of the prompts that are offered
PASSES = 2


@dataclass(slots=True)
class Ahead:
    """A prompt that was drawn."""

    prompt: Prompt
    num_passed: int = 0  # prompts that were preferred to it
    taken: bool = False  # a ticket was issued for it, while one that was drawn before it still waits


class LookAhead:
    """Prompts in the order in which tickets are issued for them, if nobody prefers another order."""

    def __init__(self, source: PromptSource, retries: Retries) -> None:
        """`retries`: prompts of failed tickets."""
        self._source, self._retries = source, retries
        # drawn from the oldest on that was not taken, each with the cursor from before it
        self._drawn: deque[tuple[PromptCursor, Ahead]] = deque()
        # by uid: prompts that the source will give again, for which a ticket was issued before it was set back
        self._skips: Counter[str] = Counter()

    def offer(self, count: int = 1) -> list[Prompt]:
        """At most `count` prompts to choose from, in order; there is always one. That of a failed ticket is offered alone."""
        if self._retries:
            return [next(iter(self._retries))[0]]
        offered = self._offered(count)
        if offered[0].num_passed > PASSES * count:
            del offered[1:]
        return [ahead.prompt for ahead in offered]

    def _offered(self, count: int) -> list[Ahead]:
        offered = list(islice((ahead for _, ahead in self._drawn if not ahead.taken), count))
        while len(offered) < count:
            drawn = self._draw()
            if not drawn.taken:
                offered.append(drawn)
        return offered

    def _draw(self) -> Ahead:
        cursor = self._source.cursor
        ahead = Ahead(self._source.next())
        if self._skips[ahead.prompt.uid] > 0:
            self._skips[ahead.prompt.uid] -= 1
            ahead.taken = True
        if self._drawn or not ahead.taken:
            self._drawn.append((cursor, ahead))
        return ahead

    def take(self, index: int = 0) -> tuple[Prompt, int]:
        """Remove prompt `index` of those that were offered, or would be: (prompt, number of its attempt)."""
        if self._retries:
            return self._retries.take()
        *passed, taken = self._offered(index + 1)
        for ahead in passed:
            ahead.num_passed += 1
        taken.taken = True
        while self._drawn and self._drawn[0][1].taken:
            self._drawn.popleft()
        return taken.prompt, 0

    def weigh(self, weights: Sequence[float]) -> None:
        """A stage begins: draw with these weights, also what was drawn already and not taken. See `PromptSource.weigh`."""
        if self._drawn:
            self._set_back(self.cursor, self.skips)
        self._source.weigh(weights)

    def begin_anew(self, begin: Callable[[], None]) -> None:
        """`begin` gives the source another order: what was drawn and not taken has lost its turn."""
        self._set_back(self.cursor, ())
        begin()

    def _set_back(self, cursor: PromptCursor, skips: Iterable[str]) -> None:
        self._source.restore(cursor)
        self._skips = Counter(skips)
        self._drawn.clear()

    @property
    def cursor(self) -> PromptCursor:
        """Where the source stood before the oldest prompt that was not taken."""
        return self._drawn[0][0] if self._drawn else self._source.cursor

    @property
    def skips(self) -> list[str]:
        """The prompts after `cursor` that were taken, by uid."""
        return sorted(chain(self._skips.elements(), (ahead.prompt.uid for _, ahead in self._drawn if ahead.taken)))

    def restore(self, cursor: PromptCursor, skips: Iterable[str]) -> None:
        """Become what was recorded."""
        self._set_back(cursor, skips)

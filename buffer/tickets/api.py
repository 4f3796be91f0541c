"""The seam for training prompts: what the buffer asks of the source that it draws prompts from.

`mixture.py` is the source that ships: files, weighted against each other. docs/extending.md adds another one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ...common.types import Prompt
from ..journal.records import PromptCursor


class PromptSource(Protocol):
    """An endless supply of training prompts that can be resumed.

    The buffer's one thread calls every method, between two messages: `next`, `cursor` and `weigh` may not block for longer than
    a read from the disk. `restore` and `find` may take longer: they are called while the buffer starts, and when a generation
    or a stage begins.
    The source alone decides the order of prompts. The journal keeps only its cursor, so a source that is made again from the
    same configuration and restored to that cursor must draw the same prompts.

    Example:
        source = PromptMixture([(prompts, 1.0)], seed=0)
        source.weigh([1.0])
        first, cursor = source.next(), source.cursor
        source.restore(cursor)  # the next prompt is the one after `first` again
        assert source.find(first.uid) == first

    Every source passes tests/support/prompt_source.py.
    """

    def next(self) -> Prompt:
        """Draw the next prompt. Called once for every prompt, perhaps some tickets before one is issued for it."""
        ...

    def find(self, uid: str) -> Prompt | None:
        """The prompt of `uid`, or None when the source does not have it (any more): it is then left out of the run.

        Called after `restore`, for prompts that were drawn before the cursor and must be issued again: those of failed
        tickets, those that were drawn ahead of need, and those of tickets that a checkpoint knew as untrained: at most
        (eta + 1) batches.
        """
        ...

    @property
    def cursor(self) -> PromptCursor:
        """The position after the last draw. Read with every commit to the journal, so it must be cheap and a copy."""
        ...

    def restore(self, cursor: PromptCursor) -> None:
        """Continue from a cursor. Called after `weigh`, when the buffer restarts or a learner begins a generation.

        Also called before `weigh` when a stage begins, with a cursor from a few prompts before.
        Raises DataError, with a sentence that says what to do, for a cursor of another source.
        """
        ...

    def weigh(self, weights: Sequence[float]) -> None:
        """Draw with these weights from now on: one for each entry of `data.train`. Called when a stage begins.

        The position inside each entry does not change, and the weights that are in force already change nothing.
        Raises DataError for weights that do not fit the source.
        """
        ...

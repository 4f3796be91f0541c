"""Prompts whose tickets yielded no group, and which are issued again before any new prompt."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping

from ...common.types import Prompt

Retry = tuple[str, int]  # (uid of the prompt, its next attempt)


class Retries:
    """The prompts in order, each under a number of its own, by which the journal records what comes and goes.

    There may be as many as tickets: a generation that begins issues all prompts again that were under way.
    """

    def __init__(self) -> None:
        self._waiting: deque[tuple[int, Prompt, int]] = deque()
        self._next = 0
        # since the last `take_changes`
        self._came: dict[int, Retry] = {}
        self._went: list[int] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[tuple[Prompt, int]]:
        """The prompts with their next attempt, in order."""
        return ((prompt, attempt) for _, prompt, attempt in self._waiting)

    def add(self, prompt: Prompt, attempt: int) -> None:
        """A prompt waits to be issued again."""
        self._waiting.append((self._next, prompt, attempt))
        self._came[self._next] = prompt.uid, attempt
        self._next += 1

    def take(self) -> tuple[Prompt, int]:
        """Remove the first: (prompt, attempt). Raises IndexError when there is none."""
        number, prompt, attempt = self._waiting.popleft()
        self._forget(number)
        return prompt, attempt

    def clear(self) -> None:
        """Remove all."""
        for number, _, _ in self._waiting:
            self._forget(number)
        self._waiting.clear()

    def _forget(self, number: int) -> None:
        if self._came.pop(number, None) is None:
            self._went.append(number)

    def take_changes(self) -> tuple[dict[int, Retry], list[int]]:
        """What came, by number, and the numbers of those that went since the last call, for the journal."""
        changes = self._came, self._went
        self._came, self._went = {}, []
        return changes

    def restore(self, recorded: Mapping[int, Retry], find: Callable[[str], Prompt | None]) -> None:
        """Become what was recorded, by number; prompts that `find` does not know are left out."""
        self._waiting.clear()
        self._came, self._went = {}, []
        for number, (uid, attempt) in sorted(recorded.items()):
            prompt = find(uid)
            if prompt is None:
                self._went.append(number)
            else:
                self._waiting.append((number, prompt, attempt))
        self._next = max(recorded, default=-1) + 1

"""Prompts from several files, drawn in a deterministic mixture that can be resumed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...common.errors import DataError
from ...common.types import Prompt
from ..journal.records import PromptCursor


class PromptMixture:
    """Endless prompts from weighted sources, the same for the same seed, resumable from a cursor.

    Smooth weighted round-robin over the sources. In each source a seeded permutation for each epoch: every prompt is drawn
    once before any is drawn twice. When the weights change, the position inside each source does not.
    """

    def __init__(self, sources: Sequence[tuple[Sequence[Prompt], float]], seed: int) -> None:
        """`sources`: (prompts, weight) pairs. Raises DataError when there is none, or a uid occurs twice."""
        if not sources or any(len(prompts) == 0 for prompts, _ in sources):
            raise DataError("there are no training prompts; list prompt files in data.train")
        self._prompts = [list(prompts) for prompts, _ in sources]
        self._weights = [weight for _, weight in sources]
        self._seed = seed
        self._credits = [0.0] * len(sources)
        self._drawn = [0] * len(sources)
        # source -> (epoch, permutation)
        self._orders: dict[int, tuple[int, np.ndarray]] = {}
        self._by_uid = {prompt.uid: prompt for prompts in self._prompts for prompt in prompts}
        if len(self._by_uid) != sum(map(len, self._prompts)):
            raise DataError("two training prompts have the same uid; give every prompt of every file in data.train its own")

    def next(self) -> Prompt:
        """Draw a prompt."""
        drawn = [i for i, weight in enumerate(self._weights) if weight > 0]
        for i in drawn:
            self._credits[i] += self._weights[i]
        source = max(drawn, key=self._credits.__getitem__)
        self._credits[source] -= sum(self._weights)
        epoch, index = divmod(self._drawn[source], len(self._prompts[source]))
        self._drawn[source] += 1
        return self._prompts[source][self._order(source, epoch)[index]]

    def weigh(self, weights: Sequence[float]) -> None:
        """Draw with these weights from now on, one for each source; a source of weight 0 is not drawn.

        Other weights than before start the round-robin afresh: draws still owed under the former weights would distort the
        present ones. Weights that are in force already change nothing. To resume, call `weigh` first, then `restore`.
        Raises DataError for another number of weights, or none above 0.
        """
        if len(weights) != len(self._weights) or min(weights) < 0 or max(weights) <= 0:
            raise DataError(
                f"weights {list(weights)} for {len(self._weights)} training sources: expected one each, some above 0"
            )
        if list(weights) != self._weights:
            self._weights = list(weights)
            self._credits = [0.0] * len(weights)

    def _order(self, source: int, epoch: int) -> np.ndarray:
        known = self._orders.get(source)
        if known is None or known[0] != epoch:
            generator = np.random.default_rng([self._seed, source, epoch])
            known = self._orders[source] = (epoch, generator.permutation(len(self._prompts[source])))
        return known[1]

    def find(self, uid: str) -> Prompt | None:
        """The prompt of a uid, if the sources still have it."""
        return self._by_uid.get(uid)

    @property
    def cursor(self) -> PromptCursor:
        """The present position."""
        return PromptCursor(credits=list(self._credits), drawn=list(self._drawn))

    def restore(self, cursor: PromptCursor) -> None:
        """Continue from a cursor. Raises DataError when it belongs to another number of sources."""
        if len(cursor.drawn) != len(self._drawn) or len(cursor.credits) != len(self._credits):
            raise DataError(
                f"the run was recorded with {len(cursor.drawn)} training sources, data.train lists {len(self._drawn)}; "
                "restore data.train, or start a run of another name"
            )
        self._credits, self._drawn = list(cursor.credits), list(cursor.drawn)

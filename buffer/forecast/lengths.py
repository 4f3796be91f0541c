"""How long completions get: by domain and task, by how often the prompt was solved, and by the prompt itself.

Lengths are counted in bins of two percent, older ones less. The longest of n rollouts has the distribution F^n.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...common.types import Group, Prompt

BINS_AN_OCTAVE = 32
NUM_BINS = 21 * BINS_AN_OCTAVE  # up to two million tokens
# groups that a distribution remembers, about
MEMORY = 2048.0
# a finer distribution counts beside the coarser one as if that had seen so many groups
PRIOR_GROUPS = 8.0
# groups after which an estimate is made anew
STALE_AFTER = 64
# prompts whose own lengths are remembered
MAX_PROMPTS = 200_000

_EDGES = 2.0 ** (np.arange(1, NUM_BINS + 1) / BINS_AN_OCTAVE)
_MIDDLES = _EDGES * 2.0 ** (-0.5 / BINS_AN_OCTAVE)


def _bin_of(num_tokens: float) -> int:
    return min(max(math.ceil(math.log2(max(num_tokens, 1.0)) * BINS_AN_OCTAVE) - 1, 0), NUM_BINS - 1)


@dataclass(frozen=True, slots=True)
class Longest:
    """Tokens of the longest rollout of a group: on average, and of a group such as there is about one in a batch."""

    expected: float
    high: float


class Histogram:
    """Lengths of one kind of prompts."""

    def __init__(self) -> None:
        self.counts = np.zeros(NUM_BINS)
        self.num_noted = 0

    def note(self, bins: list[int]) -> None:
        """Count the rollouts of one group, which weighs 1."""
        self.counts *= 1 - 1 / MEMORY
        np.add.at(self.counts, bins, 1 / len(bins))
        self.num_noted += 1


@dataclass(slots=True)
class Seen:
    """What the groups of one prompt showed so far."""

    mean_log: float = 0.0  # of its lengths, natural logarithm
    pass_rate: float = 0.0
    num_groups: int = 0

    def note(self, mean_log: float, pass_rate: float) -> None:
        """Count one group; the newest counts for a third at least."""
        self.num_groups += 1
        share = max(1 / self.num_groups, 1 / 3)
        self.mean_log += share * (mean_log - self.mean_log)
        self.pass_rate += share * (pass_rate - self.pass_rate)


class LengthForecast:
    """Lengths by kind of prompt, and how an estimate is made of them."""

    def __init__(self) -> None:
        # "", "domain/task", "domain/task/hard": each beside its parent
        self._histograms: dict[str, Histogram] = {}
        self._seen: dict[str, Seen] = {}
        # (kind, n) -> (groups noted then, what was found)
        self._longest: dict[tuple[str, int], tuple[int, Longest]] = {}
        # the share of groups that may be longer than `Longest.high`
        self.rare = 0.05
        # kind -> running mean of the logarithm
        self._mean_log: dict[str, float] = {}

    @property
    def num_groups(self) -> int:
        """Groups that were counted."""
        return self._histograms[""].num_noted if self._histograms else 0

    def note(self, prompt: Prompt, group: Group) -> None:
        """Count a group of this prompt."""
        lengths = [max(rollout.num_tokens, 1) for rollout in group.rollouts]
        if not lengths:
            return
        bins = [_bin_of(length) for length in lengths]
        mean_log = sum(map(math.log, lengths)) / len(lengths)
        for kind in self._kinds(prompt):
            self._histograms.setdefault(kind, Histogram()).note(bins)
            mean = self._mean_log.get(kind, mean_log)
            self._mean_log[kind] = mean + (mean_log - mean) / min(self._histograms[kind].num_noted, MEMORY)
        solved = [rollout.verdict.reward for rollout in group.rollouts if rollout.verdict.reward is not None]
        seen = self._seen.pop(prompt.uid, None) or Seen()
        seen.note(mean_log, sum(reward > 0 for reward in solved) / max(len(solved), 1))
        self._seen[prompt.uid] = seen
        if len(self._seen) > MAX_PROMPTS:
            del self._seen[next(iter(self._seen))]

    def _kinds(self, prompt: Prompt) -> tuple[str, str, str]:
        """From the coarsest to the finest."""
        task = f"{prompt.domain}/{prompt.task}"
        seen = self._seen.get(prompt.uid)
        if seen is None:
            return "", task, f"{task}/new"
        hardness = "hard" if seen.pass_rate < 0.25 else "easy" if seen.pass_rate > 0.75 else "middle"
        return "", task, f"{task}/{hardness}"

    def longest(self, prompt: Prompt, num_rollouts: int, max_tokens: int) -> Longest | None:
        """Tokens of the longest of `num_rollouts`; None before any group was seen."""
        kinds = self._kinds(prompt)
        if not self.num_groups:
            return None
        kind = next((kind for kind in reversed(kinds) if kind in self._histograms), "")
        found = self._longest_of(kind, kinds, num_rollouts)
        factor, seen = 1.0, self._seen.get(prompt.uid)
        if seen is not None and kind in self._mean_log:
            # the prompt's own lengths beside those of its kind: half after one group, more after several
            own = seen.num_groups / (seen.num_groups + 1)
            factor = math.exp(own * (seen.mean_log - self._mean_log[kind]))
        return Longest(min(found.expected * factor, float(max_tokens)), min(found.high * factor, float(max_tokens)))

    def usual(self, num_rollouts: int, max_tokens: int) -> Longest | None:
        """The same for a prompt of which nothing is known."""
        if not self.num_groups:
            return None
        found = self._longest_of("", ("",), num_rollouts)
        return Longest(min(found.expected, float(max_tokens)), min(found.high, float(max_tokens)))

    def _longest_of(self, kind: str, kinds: Sequence[str], num_rollouts: int) -> Longest:
        """Of a kind of prompts, with the coarser kinds where it has few groups."""
        noted = self._histograms[kind].num_noted
        known = self._longest.get((kind, num_rollouts))
        if known is not None and noted < known[0] + max(min(known[0] // 8, STALE_AFTER), 1):
            return known[1]
        counts = np.zeros(NUM_BINS)
        for coarser in kinds[: kinds.index(kind) + 1]:
            histogram = self._histograms.get(coarser)
            if histogram is not None:
                total = counts.sum()
                counts = histogram.counts + (counts * (PRIOR_GROUPS / total) if total > 0 else 0.0)
        of_longest = (np.cumsum(counts) / counts.sum()) ** num_rollouts
        expected = float(np.dot(np.diff(of_longest, prepend=0.0), _MIDDLES))
        high = float(_EDGES[int(np.searchsorted(of_longest, 1 - self.rare))])
        found = Longest(expected, max(expected, high))
        self._longest[kind, num_rollouts] = noted, found
        return found

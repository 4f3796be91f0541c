"""Where an actor's time went, and what it made: cumulative numbers for its heartbeats."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

import psutil

from ..common.errors import VerifierFailure
from ..common.types import Verdict

_WINDOW = 1000  # verdicts that the None-rate is taken over
_MIN_VERDICTS = 50  # fewer say nothing about a rate
_TREE_S = 5.0  # how long the list of descendants is believed: making it reads all of /proc


class ActorStats:
    """busy_s: a rollout is in flight and generation not paused; weights_s: paused for new weights; idle_s: the rest.

    verify_s: spent by verifiers, several at once included; verifying_s: a verdict is awaited; verify_exposed_s: of these, the
    seconds in which nothing is generated.
    """

    def __init__(self, max_none_rate: float) -> None:
        self.counts: Counter[str] = Counter()  # generated_tokens, generated_rollouts, returned_tickets, ...
        self._seconds = dict.fromkeys(("busy_s", "idle_s", "weights_s", "verify_s", "verifying_s", "verify_exposed_s"), 0.0)
        self._in_flight = self._awaited = 0
        self._since = perf_counter()
        self._max_none_rate = max_none_rate
        self._recent: deque[bool] = deque(maxlen=_WINDOW)  # True: the verdict was None
        self._tree: list[psutil.Process] = []
        self._tree_at = float("-inf")

    def started(self, num_rollouts: int) -> None:
        self._mark()
        self._in_flight += num_rollouts

    def ended(self, num_rollouts: int) -> None:
        """Rollouts stopped being generated: finished, or given up."""
        self._mark()
        self._in_flight -= num_rollouts
        assert self._in_flight >= 0, "more rollouts ended than started"

    def paused(self, seconds: float) -> None:
        """Generation stood still for new weights, just now."""
        self._mark()
        self._seconds["busy_s" if self._in_flight else "idle_s"] -= seconds
        self._seconds["weights_s"] += seconds

    def judged(self, verdict: Verdict) -> None:
        """Raises VerifierFailure when too many of the last verdicts are None."""
        self._seconds["verify_s"] += verdict.seconds
        self._recent.append(verdict.reward is None)
        self.counts["none_verdicts"] += verdict.reward is None
        rate = sum(self._recent) / len(self._recent)
        if len(self._recent) >= _MIN_VERDICTS and rate > self._max_none_rate:
            raise VerifierFailure(
                f"{rate:.0%} of the last {len(self._recent)} verdicts are None (now {verdict.verifier}: {verdict.status}, "
                f"{verdict.detail!r}): expected at most {self._max_none_rate:.0%} (verifiers.max_none_rate)"
            )

    @contextmanager
    def awaiting_verdict(self) -> Iterator[None]:
        """While the verdict on one rollout is awaited."""
        self._mark()
        self._awaited += 1
        try:
            yield
        finally:
            self._mark()
            self._awaited -= 1

    def snapshot(self) -> dict[str, float]:
        """Everything so far; CPU seconds are of this process and its living descendants."""
        self._mark()
        return {**self._seconds, **self.counts, "in_flight": float(self._in_flight), "cpu_s": self._cpu_s()}

    def _mark(self) -> None:
        now = perf_counter()
        passed = now - self._since
        self._seconds["busy_s" if self._in_flight else "idle_s"] += passed
        if self._awaited:
            self._seconds["verifying_s"] += passed
            self._seconds["verify_exposed_s"] += 0.0 if self._in_flight else passed
        self._since = now

    def _cpu_s(self) -> float:
        if self._since - self._tree_at > _TREE_S:
            me = psutil.Process()
            self._tree, self._tree_at = [me, *me.children(recursive=True)], self._since
        total = 0.0
        for process in self._tree:
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            total += times.user + times.system
        return total

"""How an actor spent its time, and what it produced: cumulative numbers for its heartbeats."""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from time import perf_counter
from types import MappingProxyType

import psutil

from ..common.errors import VerifierFailure
from ..common.types import Verdict
from .engines.load import EngineLoad

_WINDOW = 1000  # the None-rate is that of so many verdicts
_MIN_VERDICTS = 50  # with fewer, the rate is too uncertain to act on
NO_COUNTS: Mapping[str, int] = MappingProxyType({})
_SECONDS = ("busy_s", "idle_s", "weights_s", "pull_s", "load_s", "verify_s", "verifying_s", "verify_exposed_s")
_TREE_S = 5.0  # how long the list of descendants is used: making it reads all of /proc


class ActorStats:
    """Counts and seconds since the actor started.

    busy_s: at least one rollout is in flight and generation is not paused. weights_s: generation is paused for new weights.
    idle_s: the rest. pull_s: weights were pulled, whatever else went on. load_s: the engine took pulled weights.
    verify_s: spent inside verifiers, summed over verifiers. verifying_s: at least one verdict is awaited. verify_exposed_s:
    the part of verifying_s in which no rollout is generated. verifiers/NAME: counters of the verifier pool. engine_NAME: the
    sums of EngineLoad. weights/NAME: counters of the pulls, and of what is served to others.
    """

    def __init__(
        self,
        max_none_rate: float,
        of_pool: Mapping[str, int] = NO_COUNTS,
        load: Callable[[], EngineLoad] = EngineLoad,
        of_weights: Callable[[], Mapping[str, int]] = lambda: NO_COUNTS,
    ) -> None:
        """of_pool: the counters of the verifier pool, which go on growing. load: that of the engine now."""
        self._of_pool, self.load, self._of_weights = of_pool, load, of_weights
        self.counts: Counter[str] = Counter()  # generated_tokens, generated_rollouts, returned_tickets, ...
        self._seconds: dict[str, float] = dict.fromkeys(_SECONDS, 0.0)
        self._in_flight = self._awaited = 0
        self._since = perf_counter()
        self._max_none_rate = max_none_rate
        self._recent: deque[bool] = deque(maxlen=_WINDOW)  # True: the verdict was None
        self._tree: list[psutil.Process] = []
        self._tree_at = float("-inf")

    @property
    def in_flight(self) -> int:
        """Rollouts that the engine has not ended."""
        return self._in_flight

    def started(self, num_rollouts: int) -> None:
        self._mark()
        self._in_flight += num_rollouts

    def ended(self, num_rollouts: int) -> None:
        """`num_rollouts` are not generated any more: they finished, or were aborted."""
        self._mark()
        self._in_flight -= num_rollouts
        assert self._in_flight >= 0, "more rollouts ended than started"

    def paused(self, seconds: float) -> None:
        """Generation was paused for new weights until just now, for `seconds`."""
        self._mark()
        self._seconds["busy_s" if self._in_flight else "idle_s"] -= seconds
        self._seconds["weights_s"] += seconds

    def spent(self, name: str, seconds: float) -> None:
        """Add to the seconds of this name."""
        self._seconds[name] += seconds

    def judged(self, verdict: Verdict) -> None:
        """Count a verdict. Raises VerifierFailure when too many of the last ones are None."""
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
        """All numbers so far. cpu_s is that of this process and its living descendants.

        helper_cpu_s is the part of those in other sessions: verifiers and sandboxes. The planner counts them apart, because
        Linux divides the cores among sessions first (autogroup).
        """
        self._mark()
        of_pool = {f"verifiers/{name}": float(count) for name, count in self._of_pool.items()}
        of_weights = {name: float(count) for name, count in self._of_weights().items()}
        cpu_s, helper_cpu_s = self._cpu_s()
        now = {"in_flight": float(self._in_flight), "cpu_s": cpu_s, "helper_cpu_s": helper_cpu_s}
        return {**self._seconds, **self.counts, **of_pool, **of_weights, **self.load().numbers(), **now}

    def _mark(self) -> None:
        now = perf_counter()
        passed = now - self._since
        self._seconds["busy_s" if self._in_flight else "idle_s"] += passed
        if self._awaited:
            self._seconds["verifying_s"] += passed
            self._seconds["verify_exposed_s"] += 0.0 if self._in_flight else passed
        self._since = now

    def _cpu_s(self) -> tuple[float, float]:
        if self._since - self._tree_at > _TREE_S:
            me = psutil.Process()
            self._tree, self._tree_at = [me, *me.children(recursive=True)], self._since
        total = helpers = 0.0
        for process in self._tree:
            try:
                times, is_helper = process.cpu_times(), os.getsid(process.pid) != os.getsid(0)
            except (psutil.NoSuchProcess, ProcessLookupError):
                continue
            total += times.user + times.system
            helpers += times.user + times.system if is_helper else 0.0
        return total, helpers

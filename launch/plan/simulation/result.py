"""What a simulation found, and the recorder that gathers it.

The first steps fill the pipeline: they are left out of every number but `steps` and `seconds`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import fmean

from ....common.types import Batch
from .actor import SimulatedActor
from .engine import EngineTotals

WARM_UP = 0.2  # of the steps

# why the learner waits: all actors are full; the bound on staleness admits no more tickets; enough groups are there, and the
# contract waits for a certain one; verdicts; a broadcast is under way; it died
CAUSES = ("actors", "staleness", "stragglers", "verifiers", "weights", "down")


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolUse:
    """One pool between the first and the last measured step. Shares are of its actors' time."""

    actors: int
    busy: float  # rollouts ran
    weights: float  # generation paused for new weights
    idle: float  # no rollout to run: no ticket, or verdicts are awaited
    down: float  # between a death and the next greeting
    running: float  # rollouts that run in a mean step, of one actor
    waiting: float  # rollouts that wait for room in the engine, of one actor
    kv_use: float  # share of the cache that is taken in a mean step; 0 without a limit
    preemptions: int
    groups: int  # delivered
    tokens_per_s: float  # sampled, of the whole pool
    roof_tokens_per_s: float  # of actors that are always full

    @property
    def share_of_roof(self) -> float:
        """Tokens that were sampled, divided by those that its actors would sample if they were always full."""
        return self.tokens_per_s / self.roof_tokens_per_s if self.roof_tokens_per_s else 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class SimulatedStep:
    """One learner step."""

    version: int  # that it started from
    began_s: float  # when its batch came
    waited_s: float
    step_s: float
    tokens: int  # of completions
    staleness: float  # mean
    eta: int  # of tickets that were issued then


@dataclass(frozen=True, kw_only=True, slots=True)
class Simulated:
    """The result of `simulate`."""

    steps: int
    seconds: float  # virtual, from the start to the last step
    steps_per_s: float
    period_s: float
    tokens_per_s: float  # of completions that were trained
    generated_per_s: float  # of completions that were sampled
    learner: dict[str, float]  # shares of its time: "train", and "wait" by cause, as "wait/CAUSE" of CAUSES
    staleness: dict[int, int]  # groups trained, by staleness
    waste: dict[str, float]  # share of the finished groups that were not trained, by reason
    survival: dict[str, float]  # buffer/survival_dK of the last batch
    pools: dict[str, PoolUse]
    counters: dict[str, int]  # of the buffer, whole run
    metrics: dict[str, float]  # of the last batch, as metrics.jsonl has them
    history: list[SimulatedStep] = field(repr=False)  # every step
    num_events: int

    @property
    def staleness_mean(self) -> float:
        """Of the groups that were trained, in versions."""
        groups = sum(self.staleness.values())
        return sum(age * count for age, count in self.staleness.items()) / groups if groups else 0.0

    @property
    def learner_busy(self) -> float:
        """Share of the learner's time that it trains."""
        return self.learner.get("train", 0.0)

    @property
    def actors_busy(self) -> float:
        """Share of the actors' time in which rollouts run, over all pools."""
        actors = sum(pool.actors for pool in self.pools.values())
        return sum(pool.busy * pool.actors for pool in self.pools.values()) / max(actors, 1)

    @property
    def share_of_roof(self) -> float:
        """Tokens that were sampled, divided by those that all actors would sample if they were always full."""
        roof = sum(pool.roof_tokens_per_s for pool in self.pools.values())
        return self.generated_per_s / roof if roof else 0.0


@dataclass(slots=True)
class _Mark:
    """The sums of one actor when the measurement began."""

    totals: EngineTotals
    groups: int
    down_s: float


_NOTHING = _Mark(EngineTotals(), 0, 0.0)


class Recorder:
    """Gathers numbers while the simulation runs."""

    def __init__(self, steps: int, counters: Mapping[str, int]) -> None:
        """`counters`: those of the buffer, which go on growing."""
        self.actors: list[SimulatedActor] = []
        self.version, self.ended_s = 0, 0.0  # the newest, and when it was made
        self._steps, self._first = steps, int(steps * WARM_UP)
        self._counters, self._counted = counters, dict(counters)
        self._began_s, self._newest = 0.0, -1  # the newest: version of the last batch
        self._measures = self._first == 0
        self._marks: dict[str, _Mark] = {}
        self._history: list[SimulatedStep] = []
        self._staleness: Counter[int] = Counter()
        self._waits: dict[str, float] = dict.fromkeys(CAUSES, 0.0)
        self._metrics: dict[str, float] = {}
        # over the rollouts that were trained: their number, their tokens, the squares of those, and their share of the prompts
        self._num_rollouts = self._tokens = self._squares = self._prompt_tokens = 0

    def waited(self, cause: str, seconds: float) -> None:
        """The learner waited for a batch, because of this."""
        if self._measures:
            self._waits[cause] += seconds

    def batch(self, batch: Batch, now: float, *, waited_s: float, step_s: float) -> None:
        """The learner has a batch."""
        ages = [batch.version - group.oldest_version for group in batch.groups]
        tokens = sum(rollout.num_tokens for group in batch.groups for rollout in group.rollouts)
        step = SimulatedStep(
            version=batch.version,
            began_s=now,
            waited_s=waited_s,
            step_s=step_s,
            tokens=tokens,
            staleness=fmean(ages),
            eta=int(batch.metrics["buffer/eta"]),
        )
        self._history.append(step)
        self._metrics = batch.metrics
        is_first = batch.version > self._newest
        self._newest = max(self._newest, batch.version)
        if self._measures and is_first:
            self._staleness.update(ages)
            self._count_tokens(batch)

    def _count_tokens(self, batch: Batch) -> None:
        for group in batch.groups:
            lengths = [rollout.num_tokens for rollout in group.rollouts]
            self._num_rollouts += len(lengths)
            self._tokens += sum(lengths)
            self._squares += sum(length * length for length in lengths)
            self._prompt_tokens += len(group.prompt.token_ids) // 4

    def step_done(self, version: int, now: float) -> None:
        """The learner made `version`. The measurement begins with the first one after the warm-up."""
        if version <= self.version:
            return  # a learner that restarted repeats steps
        self.version, self.ended_s = version, now
        if version == self._first:
            self._measures, self._began_s, self._counted = True, now, dict(self._counters)
            for actor in self.actors:
                actor.catch_up()
            self._marks = {actor.name: _of(actor) for actor in self.actors}

    def result(self, steps: int, num_events: int) -> Simulated:
        """All that was gathered, once the last step is made."""
        for actor in self.actors:
            actor.catch_up()
        seconds = max(self.ended_s - self._began_s, 1e-12)
        measured = steps - self._first
        pools = {pool: self._pool(pool, seconds) for pool in dict.fromkeys(actor.pool for actor in self.actors)}
        waits = {f"wait/{cause}": self._waits[cause] / seconds for cause in CAUSES if self._waits[cause] > 0}
        return Simulated(
            steps=steps,
            seconds=self.ended_s,
            steps_per_s=measured / seconds,
            period_s=seconds / measured,
            tokens_per_s=self._tokens / seconds,
            generated_per_s=sum(pool.tokens_per_s for pool in pools.values()),
            learner={"train": 1.0 - sum(waits.values())} | waits,
            staleness=dict(sorted(self._staleness.items())),
            waste=self._waste(sum(pool.groups for pool in pools.values())),
            survival={name: value for name, value in self._metrics.items() if name.startswith("buffer/survival_")},
            pools=pools,
            counters=dict(self._counters),
            metrics=self._metrics,
            history=self._history,
            num_events=num_events,
        )

    def _waste(self, groups: int) -> dict[str, float]:
        names = {"filtered": "buffer/filtered", "stale": "buffer/evicted", "lost": "buffer/lost_leases"}
        grown = {name: self._counters.get(key, 0) - self._counted.get(key, 0) for name, key in names.items()}
        return {name: count / max(groups, 1) for name, count in grown.items()}

    def _pool(self, pool: str, seconds: float) -> PoolUse:
        mine = [actor for actor in self.actors if actor.pool == pool]
        grown = [_growth(_of(actor), self._marks.get(actor.name, _NOTHING)) for actor in mine]
        device, time_s = mine[0].device, seconds * len(mine)
        steps = max(sum(each.totals.steps for each in grown), 1e-12)
        tokens = sum(each.totals.tokens for each in grown)
        return PoolUse(
            actors=len(mine),
            busy=sum(each.totals.busy_s for each in grown) / time_s,
            weights=sum(each.totals.weights_s for each in grown) / time_s,
            idle=sum(each.totals.idle_s for each in grown) / time_s,
            down=sum(each.down_s for each in grown) / time_s,
            running=tokens / steps,
            waiting=sum(each.totals.waiting for each in grown) / steps,
            kv_use=sum(each.totals.kv_use for each in grown) / steps,
            preemptions=sum(each.totals.preemptions for each in grown),
            groups=sum(each.groups for each in grown),
            tokens_per_s=tokens / seconds,
            roof_tokens_per_s=len(mine) * device.roof_tokens_per_s(self._mean_context()),
        )

    def _mean_context(self) -> float:
        """Tokens of a running rollout and its share of the prompt, on average."""
        rollouts = self._num_rollouts or 1
        # a rollout of L tokens runs for L steps, with L / 2 tokens on average
        return self._squares / max(2 * self._tokens, 1) + self._prompt_tokens / rollouts


def _of(actor: SimulatedActor) -> _Mark:
    totals = actor.engine.totals
    copy = EngineTotals(**{name: getattr(totals, name) for name in EngineTotals.__slots__})
    return _Mark(copy, actor.num_groups, actor.down_s)


def _growth(later: _Mark, earlier: _Mark) -> _Mark:
    grown = {name: getattr(later.totals, name) - getattr(earlier.totals, name) for name in EngineTotals.__slots__}
    return _Mark(EngineTotals(**grown), later.groups - earlier.groups, later.down_s - earlier.down_s)

"""What clients do now, from two statuses of the buffer: their numbers are sums since they started, so differences tell.

Of an actor that was not there before, or started again since, the numbers since its start stand for its speed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ...common.messages import Role, Status

WINDOW_S = 10.0  # speeds are those of so many seconds, at most
MOSTLY = 0.5  # a share of an actor's time that names what it waits for
Told = Mapping[str, float | str]


@dataclass(frozen=True, slots=True)
class TimedStatus:
    """A status, and when it came."""

    at_s: float
    status: Status


@dataclass(frozen=True, kw_only=True, slots=True)
class WatchedActor:
    """One actor, or those of a pool together: then shares are means, lag and silence the largest, and the rest are sums."""

    name: str
    pool: str
    state: str  # as the buffer sees it: ready, waits for weights, pulls, cordoned, leaving, quarantined
    rollouts: float  # in its hands
    room: float  # that its engine has use for
    lag: float | None  # versions behind the learner; None: it holds no weights
    silence_s: float
    tokens_per_s: float
    ended_per_s: float  # rollouts that ended, per second
    busy: float  # shares of its time; the three add up to 1, or are 0 before there is any
    idle: float
    updating: float
    judging: float  # share in which verdicts are awaited and nothing is generated: part of `idle`
    num_actors: int = 1

    @property
    def waits_for(self) -> str:
        """What keeps it from generating, empty if it generates."""
        if self.state != "ready":
            return self.state.removeprefix("waits for ")
        if self.judging > MOSTLY / 2:
            return f"verdicts {self.judging:.0%}"
        if self.idle > MOSTLY:
            return f"tickets {self.idle:.0%}"
        return f"weights {self.updating:.0%}" if self.updating > MOSTLY / 2 else ""


class StatusWindow:
    """The statuses of the last seconds."""

    def __init__(self) -> None:
        self._seen: deque[TimedStatus] = deque()

    def add(self, at_s: float, status: Status) -> None:
        """Take in the next status; one of another run or generation of the buffer begins anew."""
        if self._seen and (self._seen[-1].status.run, self._seen[-1].status.generation) != (status.run, status.generation):
            self._seen.clear()
        self._seen.append(TimedStatus(at_s, status))
        while len(self._seen) > 2 and self._seen[1].at_s <= at_s - WINDOW_S:
            self._seen.popleft()

    @property
    def newest(self) -> TimedStatus | None:
        return self._seen[-1] if self._seen else None

    def actors(self) -> list[WatchedActor]:
        """Every actor of the newest status."""
        if not self._seen:
            return []
        first, last = self._seen[0], self._seen[-1]
        found = ((name, peer) for name, peer in last.status.peers.items() if peer.get("role") == Role.actor.value)
        before = first.status.peers if len(self._seen) > 1 else {}
        return [actor_speed(name, peer, before.get(name, {})) for name, peer in found]

    def late_weights(self) -> float:
        """Of the statuses in which the learner waited, the share in which no actor had its newest weights yet."""
        waiting = [seen.status for seen in self._seen if seen.status.pace is not None and seen.status.pace.waits_s >= 0]
        return sum(_all_behind(status) for status in waiting) / len(waiting) if waiting else 0.0


def _all_behind(status: Status) -> bool:
    actors = [peer for peer in status.peers.values() if peer.get("role") == Role.actor.value]
    # an actor without weights tells no lag
    return bool(actors) and all(_number(actor, "lag") >= 1 or "lag" not in actor for actor in actors)


def actor_speed(name: str, peer: Told, before: Told) -> WatchedActor:
    """The speed of an actor between two statuses. before: what was told of it then; empty: nothing."""
    if any(_number(peer, key) < _number(before, key) for key in ("busy_s", "idle_s", "generated_tokens")):
        before = {}

    def grown(key: str) -> float:
        return _number(peer, key) - _number(before, key)

    busy_s, idle_s, updating_s = (max(0.0, grown(key)) for key in ("busy_s", "idle_s", "weights_s"))
    passed_s = busy_s + idle_s + updating_s
    share = 1.0 / passed_s if passed_s > 0 else 0.0
    # of engines that do not count their steps' tokens there are those of rollouts that ended
    tokens = grown("engine_tokens") if _number(peer, "engine_tokens") else grown("generated_tokens")
    lag = peer.get("lag")
    return WatchedActor(
        name=name,
        pool=str(peer.get("pool", "")),
        state=str(peer.get("state", "")),
        rollouts=_number(peer, "rollouts"),
        room=_number(peer, "room"),
        lag=float(lag) if isinstance(lag, int | float) else None,
        silence_s=_number(peer, "silence_s"),
        tokens_per_s=tokens * share,
        ended_per_s=grown("generated_rollouts") * share,
        busy=busy_s * share,
        idle=idle_s * share,
        updating=updating_s * share,
        judging=min(max(0.0, grown("verify_exposed_s")) * share, 1.0),
    )


def pool_speeds(actors: Iterable[WatchedActor]) -> list[WatchedActor]:
    """The actors of every pool together, by name; those of no pool are one too."""
    pools: dict[str, list[WatchedActor]] = {}
    for actor in actors:
        pools.setdefault(actor.pool, []).append(actor)
    return [_together(name, members) for name, members in sorted(pools.items())]


def _together(pool: str, members: list[WatchedActor]) -> WatchedActor:
    num = len(members)
    states = {member.state for member in members}
    lags = [member.lag for member in members if member.lag is not None]
    return WatchedActor(
        name=pool,
        pool=pool,
        state=states.pop() if len(states) == 1 else "ready",
        rollouts=sum(member.rollouts for member in members),
        room=sum(member.room for member in members),
        lag=max(lags, default=None),
        silence_s=max(member.silence_s for member in members),
        tokens_per_s=sum(member.tokens_per_s for member in members),
        ended_per_s=sum(member.ended_per_s for member in members),
        busy=sum(member.busy for member in members) / num,
        idle=sum(member.idle for member in members) / num,
        updating=sum(member.updating for member in members) / num,
        judging=sum(member.judging for member in members) / num,
        num_actors=num,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class LiveRoofs:
    """How near each part of the run is to what it can do, as shares of time, and which of them holds the others up."""

    learner: float  # of its time, not waiting for a batch
    actors: float  # of their time, generating
    staleness: float  # of the learner's time, waiting while eta alone held work back
    verifiers: float  # of the actors' time, waiting for verdicts alone
    weights: float  # of the actors' time, taking weights; or of the learner's, waiting while they are on their way to all
    binds: str  # one of the above, or empty before there are figures


def live_roofs(status: Status, actors: list[WatchedActor], late_weights: float = 0.0) -> LiveRoofs:
    """From the learner's last steps, and the actors' last seconds. late_weights: `StatusWindow.late_weights`."""
    pace, num = status.pace, max(len(actors), 1)
    steps = pace if pace is not None and pace.num_steps and pace.step_s > 0 else None
    waits = 0.0 if steps is None else min(1.0, steps.wait_s / steps.step_s)
    held = 0.0 if steps is None else min(waits, steps.held_s / steps.step_s)
    busy, judging, updating = (sum(getattr(actor, name) for actor in actors) / num for name in ("busy", "judging", "updating"))
    known = steps is not None and bool(actors)
    return LiveRoofs(
        learner=0.0 if steps is None else 1.0 - waits,
        actors=busy,
        staleness=held,
        verifiers=judging,
        weights=max(updating, waits * late_weights),
        binds=_binding(waits, held, late_weights, busy, judging, updating) if known else "",
    )


def _binding(waits: float, held: float, late: float, busy: float, judging: float, updating: float) -> str:
    """A learner that hardly waits is the roof; of one that waits, what holds most of that time, or else the actors' side.

    Where nobody has its newest weights yet, eta holds the actors back too, and faster weights would help as well.
    """
    if waits < 0.1:
        return "learner"
    if late > 0.5:
        return "weights"
    if held > waits / 2:
        return "staleness"
    return max((("actors", busy), ("verifiers", judging), ("weights", updating)), key=lambda pair: pair[1])[0]


def _number(peer: Told, key: str) -> float:
    value = peer.get(key, 0.0)
    return float(value) if isinstance(value, int | float) else 0.0

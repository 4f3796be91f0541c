"""Where each side's seconds went, from the lines of metrics.jsonl: learner, actors, verifiers, weights. They add up."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

from ...common.json_object import JsonObject
from ...common.metrics import HUGE, MetricsRecord
from .diagnosis import PARTS, Side, TimePart
from .run_records import RunRecords, total
from .waiting import Waits, actors_seconds

WAITS = {
    "actors": "waiting for groups that the actors sample",
    "staleness": "waiting, while eta alone held work back",
    "verifiers": "waiting for verdicts on rollouts that have ended",
    "weights": "waiting, while new weights were on their way to the actors",
}
COMPUTED = {
    "reference": ("learner/reference_s", "log-probabilities of the reference"),
    "proximal": ("learner/proximal_s", "log-probabilities of the proximal policy"),
    "forward and backward": ("learner/forward_backward_s", "forward and backward passes"),
    "optimizer": ("learner/optimizer_s", "clipping of the gradient and the optimizer's update"),
}
BESIDE = {
    "publish": ("learner/publish_s", "handing the weights to their sender"),
    "checkpoint": ("learner/checkpoint_s", "the part of a checkpoint that the learner waits for"),
}


def sides_of(run: RunRecords) -> tuple[Side, ...]:
    """All sides; none before the first step."""
    if not run.records:
        return ()
    return (learner_side(run), actors_side(run), verifiers_side(run), weights_side(run), *single_actors(run))


def learner_side(run: RunRecords) -> Side:
    """The learner, by what it computed and waited for. The wait for the first batch is the start of everybody."""
    first, later = run.records[:1], run.records[1:]
    spent = [TimePart(name="start", seconds=total(first, "learner/wait_s"), meaning="waiting for the first batch")]
    spent += [TimePart(name=name, seconds=total(run.records, key), meaning=text) for name, (key, text) in COMPUTED.items()]
    inside_s = sum(part.seconds for part in spent[1:])
    rest_s = max(total(run.records, "learner/compute_s") - inside_s, 0.0)
    spent.append(TimePart(name="rest of the step", seconds=rest_s, meaning="packing, statistics, waiting for other ranks"))
    spent += [TimePart(name=name, seconds=total(run.records, key), meaning=text) for name, (key, text) in BESIDE.items()]
    found = Waits(run)
    waits = [found.of(record) for record in later]
    for part in PARTS:
        if part in WAITS:
            waited_s = sum(wait.get(part, 0.0) for wait in waits)
            spent.append(TimePart(name=f"wait: {part}", seconds=waited_s, meaning=WAITS[part]))
    return _side("learner", 1.0, _wall_s(run.records), spent, "between steps: metrics, notes to the buffer")


def actors_side(run: RunRecords) -> Side:
    """All actors together."""
    later, total_s = _recorded_by_actors(run.records), actors_seconds(run.records)
    idle_s, exposed_s = total(later, "actor/idle_s"), total(later, "actor/verify_exposed_s")
    spent = [
        TimePart(name="sampling", seconds=total(later, "actor/busy_s"), meaning="at least one rollout is sampled"),
        TimePart(name="paused", seconds=total(later, "actor/weights_s"), meaning="sampling pauses for new weights"),
        TimePart(name="verdicts", seconds=min(exposed_s, idle_s), meaning="nothing to sample, and verdicts are awaited"),
        TimePart(name="no ticket", seconds=max(idle_s - exposed_s, 0.0), meaning="nothing to sample, and nothing to judge"),
    ]
    return _side("actors", total_s / _wall_s(run.records), total_s, spent, "starting, away, or not reported")


def verifiers_side(run: RunRecords) -> Side:
    """The verifiers of all actors together: an actor's verifiers are busy while at least one verdict is awaited."""
    later, total_s = _recorded_by_actors(run.records), actors_seconds(run.records)
    exposed_s = total(later, "actor/verify_exposed_s")
    beside_s = max(total(later, "actor/verifying_s") - exposed_s, 0.0)
    spent = [
        TimePart(name="beside sampling", seconds=beside_s, meaning="judging, while the actor samples other rollouts"),
        TimePart(name="alone", seconds=exposed_s, meaning="judging, while the actor has nothing to sample"),
    ]
    return _side("verifiers", total_s / _wall_s(run.records), total_s, spent, "nothing to judge")


def weights_side(run: RunRecords) -> Side:
    """The way of the weights: broadcasts are one after the other; pulls are of every actor."""
    pulled_s, loaded_s = total(run.records, "actor/pull_s"), total(run.records, "actor/load_s")
    if pulled_s > 0:
        spent = [
            TimePart(name="pulling", seconds=pulled_s, meaning="fetching new weights, beside sampling"),
            TimePart(name="loading", seconds=loaded_s, meaning="the engine takes them"),
        ]
        total_s = actors_seconds(run.records)
        return _side("weights", total_s / _wall_s(run.records), total_s, spent, "no new weights on their way")
    # a record repeats the seconds of the last broadcast until another one ends
    sent = (record.get("weights/publish_s") or 0.0 for record in run.records)
    sent_s = sum(seconds for seconds, _ in groupby(sent))
    broadcast = TimePart(name="broadcast", seconds=sent_s, meaning="from the announcement to the last acknowledgement")
    return _side("weights", 1.0, _wall_s(run.records), [broadcast], "no new weights on their way")


def single_actors(run: RunRecords) -> Iterable[Side]:
    """Each actor of an ended run over its own life, from the summary."""
    of_actors = run.summary.get("time_split", {}).get("actors", {})
    for name, split in sorted(of_actors.items()):
        spent = [
            TimePart(name="sampling", seconds=_told(split, "busy_s"), meaning="at least one rollout is sampled"),
            TimePart(name="paused", seconds=_told(split, "weights_s"), meaning="sampling pauses for new weights"),
            TimePart(name="idle", seconds=_told(split, "idle_s"), meaning="nothing to sample"),
        ]
        yield _side(name, 1.0, sum(part.seconds for part in spent), spent, "not reported")


def _told(split: JsonObject, name: str) -> float:
    """The seconds that an actor told; 0 for what cannot be seconds."""
    seconds = split.get(name)
    return float(seconds) if isinstance(seconds, int | float) and 0 <= seconds < HUGE else 0.0


def _wall_s(records: Sequence[MetricsRecord]) -> float:
    """The learner's clock, from its first step to its last record."""
    return max(total(records, "learner/step_s"), 1e-9)


def _recorded_by_actors(records: Sequence[MetricsRecord]) -> list[MetricsRecord]:
    """The records in which actors report what they did on the learner's clock: the first one has all that was before it."""
    first, *later = records
    grown_s = total([first], "actor/busy_s") + total([first], "actor/idle_s") + total([first], "actor/weights_s")
    room_s = actors_seconds([first])
    if grown_s <= room_s:
        return list(records)
    scale = room_s / grown_s
    return [{key: value * scale if key.endswith("_s") and value else value for key, value in first.items()}, *later]


def _side(name: str, processes: float, total_s: float, spent: Sequence[TimePart], rest: str) -> Side:
    """A side whose seconds add up: what is missing has a name, and what is too much (heartbeats come late) is scaled down."""
    known_s = sum(part.seconds for part in spent)
    if known_s > total_s:
        scale = total_s / known_s if known_s else 0.0
        spent = [TimePart(name=part.name, seconds=part.seconds * scale, meaning=part.meaning) for part in spent]
        known_s = total_s
    other = TimePart(name="other", seconds=total_s - known_s, meaning=rest)
    return Side(name=name, processes=processes, total_s=total_s, spent=(*spent, other))

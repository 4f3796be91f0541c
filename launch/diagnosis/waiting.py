"""What the learner waited for, step by step: its seconds of waiting, divided among the parts of the run.

The buffer measures one cause itself: `buffer/held_s` is the time in which eta alone held work back. What made the round of a
ticket so long that eta + 1 versions were not enough tells whose fault that is: weights on their way, verdicts, or sampling. The
rest of the waiting is divided as the actors spent their time meanwhile. These are estimates: a record has sums, no instants.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median

from ...common.metrics import MetricsRecord
from ..plan.calibrate import workers_of
from .run_records import RunRecords, mean, total

SATURATED = 0.85  # share of the verifier workers' time from which they are what finished rollouts wait for


@dataclass(frozen=True, kw_only=True, slots=True)
class TicketRound:
    """Mean seconds of the parts of a ticket's round, from the end of a step to the group that its weights made."""

    publish_s: float  # until the weights are at the actors
    generate_s: float  # of a group, without waiting for verdicts
    verdict_s: float  # of a group, after its last token

    @classmethod
    def of(cls, run: RunRecords) -> TicketRound:
        """Those of a run; where no journal says how long a group takes, by the longest completions of the batches."""
        records = run.measured
        generate_s = _sampling_s(run, records)
        if run.groups:
            group_s = fmean(group.seconds for group in run.groups)
            generate_s = min(generate_s or group_s, group_s)
        else:
            exposed_s, busy_s = total(records, "actor/verify_exposed_s"), total(records, "actor/busy_s")
            group_s = generate_s * (1 + exposed_s / busy_s) if busy_s else 0.0
        return cls(publish_s=publish_seconds(records), generate_s=generate_s, verdict_s=group_s - generate_s)

    def shares(self) -> dict[str, float]:
        """Of the whole round, by the part of the run that is to blame."""
        round_s = self.publish_s + self.generate_s + self.verdict_s
        if round_s <= 0:
            return {"staleness": 1.0}
        return {
            "weights": self.publish_s / round_s,
            "verifiers": self.verdict_s / round_s,
            "staleness": self.generate_s / round_s,
        }


def publish_seconds(records: Sequence[MetricsRecord]) -> float:
    """Median seconds from a step until its weights are at the actors, by broadcast or by pulling."""
    sent = [record["weights/publish_s"] for record in records if record.get("weights/publish_s")]
    if sent:
        return median(sent)
    updates = total(records, "actor/weight_updates")
    return (total(records, "actor/pull_s") + total(records, "actor/load_s")) / updates if updates else 0.0


def verifiers_use(run: RunRecords, records: Sequence[MetricsRecord]) -> float:
    """The share of their time that the verifier workers judge; 0 where others judge as well."""
    workers_s = workers_of(run.cfg.verifiers) * actors_seconds(records)
    return total(records, "actor/verify_s") / workers_s if workers_s > 0 else 0.0


def actors_seconds(records: Sequence[MetricsRecord]) -> float:
    """The learner's clock, times the actors that were there at each step."""
    return sum((record.get("learner/step_s") or 0.0) * (record.get("actor/num_actors") or 0.0) for record in records)


class Waits:
    """The learner's waiting, divided among the parts of the run."""

    def __init__(self, run: RunRecords) -> None:
        self.ticket_round = TicketRound.of(run)
        self.verifiers_use = verifiers_use(run, run.measured)

    def of(self, record: MetricsRecord) -> dict[str, float]:
        """The seconds that the learner waited for a step's batch, by the part of the run that it waited for."""
        waited_s = record.get("learner/wait_s") or 0.0
        held_s = min(record.get("buffer/held_s") or 0.0, waited_s)
        waits = {part: held_s * share for part, share in self.ticket_round.shares().items()}
        for part, share in self._actors_time(record).items():
            waits[part] = waits.get(part, 0.0) + (waited_s - held_s) * share
        return waits

    def _actors_time(self, record: MetricsRecord) -> dict[str, float]:
        """How the actors spent a step, as shares: sampling, judging, new weights, without a ticket."""
        busy_s, exposed_s, paused_s, idle_s = (
            max(record.get(f"actor/{name}") or 0.0, 0.0) for name in ("busy_s", "verify_exposed_s", "weights_s", "idle_s")
        )
        spent = {"actors": busy_s, "verifiers": exposed_s, "weights": paused_s, "staleness": 0.0}
        if self.verifiers_use > SATURATED:
            # finished rollouts take the room in which others would be sampled
            spent |= {"actors": 0.0, "verifiers": busy_s + exposed_s}
        # without a ticket: for as long as new weights are under way they may be what is missing; else eta admits none
        unused_s = max(idle_s - exposed_s, 0.0)
        weights_s = min(unused_s, self.ticket_round.publish_s * (record.get("actor/num_actors") or 0.0))
        spent["weights"] += weights_s
        spent["staleness"] += unused_s - weights_s
        known_s = sum(spent.values())
        return {part: seconds / known_s for part, seconds in spent.items()} if known_s > 0 else {"actors": 1.0}


def _sampling_s(run: RunRecords, records: Sequence[MetricsRecord]) -> float:
    """Seconds until the longest rollout of a group is sampled, with its waiting for room and the pauses; 0: not known."""
    steps, running = total(records, "actor/engine_steps"), total(records, "actor/engine_running")
    if not (steps and running):
        return 0.0
    longest = mean(records, "rollout/tokens_max")
    if run.groups:
        longest = fmean(max((rollout.num_tokens for rollout in group.rollouts), default=0) for group in run.groups)
    queued = 1 + total(records, "actor/engine_waiting") / running
    spent_s = total(records, "actor/busy_s") + total(records, "actor/weights_s")
    return longest * queued * spent_s / steps

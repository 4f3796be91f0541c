"""Which part of a run holds it up: the one that the learner's time, after the start, went to most."""

from __future__ import annotations

from .diagnosis import PARTS, BindingRoof
from .moves import UNCROWDED
from .run_records import RunRecords, cores_had, mean, total
from .waiting import Waits, actors_seconds

WORDS = {
    "learner": "the learner binds: it works {share:.0%} of the time, and groups wait for it",
    "actors": "the actors bind: {share:.0%} of the learner's time passes until they have sampled enough groups",
    "staleness": "the bound on staleness binds: {share:.0%} of the learner's time passes while eta holds work back",
    "verifiers": "the verifiers bind: {share:.0%} of the learner's time passes while verdicts are awaited",
    "weights": "the weights bind: {share:.0%} of the learner's time passes while they are on their way to the actors",
}


def binding_roof(run: RunRecords, cores: float) -> BindingRoof | None:
    """The part that holds the run up; None before the first step. cores: that all its processes share; 0: each has its own."""
    records = run.measured
    step_s = total(records, "learner/step_s")
    if step_s <= 0:
        return None
    found = Waits(run)
    shares: dict[str, float] = dict.fromkeys(PARTS, 0.0)
    for record in records:
        for part, seconds in found.of(record).items():
            shares[part] += seconds / step_s
    shares["learner"] = max(1.0 - sum(shares.values()), 0.0)
    waits = {part: share for part, share in shares.items() if part != "learner"}
    longest = max(waits, key=lambda part: waits[part])
    # a learner that works most of the time is the reason, even where the rest has several causes
    part = "learner" if shares["learner"] >= sum(waits.values()) else longest
    return BindingRoof(
        part=part,
        words=WORDS[part].format(share=shares[part]),
        evidence=tuple(_evidence(run, found, cores)),
        shares=shares,
    )


def _evidence(run: RunRecords, found: Waits, cores: float) -> list[str]:
    """What the records say, a sentence each."""
    records, cfg = run.measured, run.cfg
    steps, step_s = len(records), total(records, "learner/step_s")
    waited_s, held_s = total(records, "learner/wait_s"), total(records, "buffer/held_s")
    actors_s, ticket_round = actors_seconds(records), found.ticket_round
    said = [
        f"a step takes {step_s / steps:.3g} s, of which the learner waits {waited_s / steps:.3g} s for its batch "
        f"({waited_s / step_s:.0%})",
        f"in {min(held_s, waited_s) / step_s:.0%} of the time an eta above {cfg.buffer.eta} would have let work go on",
        f"from weights to a group: {ticket_round.publish_s:.3g} s until actors have them, {ticket_round.generate_s:.3g} s "
        f"of sampling, {ticket_round.verdict_s:.3g} s for the last verdicts",
    ]
    if actors_s > 0:
        busy, exposed, paused = (
            min(total(records, f"actor/{name}") / actors_s, 1.0) for name in ("busy_s", "verify_exposed_s", "weights_s")
        )
        said.append(
            f"actors sample {busy:.0%} of their time, wait {exposed:.0%} for verdicts alone, and pause {paused:.0%} for weights"
        )
    had = cores_had(records)
    if cores and 0 < had < UNCROWDED:
        said.append(f"others want the cores of this machine: learner and actors had {had:.2f} of a core each while they worked")
    if found.verifiers_use > 0:
        said.append(f"the verifier workers judge {found.verifiers_use:.0%} of their time")
    if room := mean(records, "actor/room"):
        running = mean(records, "perf/actor_running")
        said.append(f"{running:.3g} rollouts run in a mean step of the engines, of {room:.3g} for which there is room")
    return said

"""Runs of many worlds, one account of them, and how to repeat a seed that failed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from .audit import Stuck
from .plan import Plan
from .world import World


@dataclass
class Account:
    """The numbers of a campaign."""

    rollouts: int = 0  # of groups that were handed out in batches, each once
    worlds: int = 0
    events: int = 0
    commits: int = 0
    stuck: list[int] = field(default_factory=list)  # seeds
    struck: Counter[str] = field(default_factory=Counter)  # faults by kind
    happened: Counter[str] = field(default_factory=Counter)  # restarts, and the places where processes died

    @property
    def faults(self) -> int:
        return self.struck.total()

    def add(self, world: World) -> None:
        self.worlds += 1
        self.rollouts += world.judge.num_rollouts
        self.events += world.num_events
        self.commits += world.judge.audit.num_commits
        self.struck.update({kind.value: count for kind, count in world.struck.items()})
        self.happened.update({f"died: {what}": count for what, count in world.deaths.items()})
        self.happened["buffer restarted"] += world.buffer_crashes
        self.happened["learner restarted"] += world.learner_restarts
        self.happened["generation begun after the first"] += world.forks
        self.happened["batch served again"] += world.judge.num_served_again

    def __str__(self) -> str:
        lines = [f"{self.rollouts} rollouts under {self.faults} faults: {self.worlds} seeds, {self.events} events"]
        lines += [f"  {count:6} {what}" for what, count in sorted(self.struck.items())]
        lines += [f"  {count:6} {what}" for what, count in sorted(self.happened.items())]
        return "\n".join([*lines, f"  {self.commits:6} commits", *(f"  stuck: {seed}" for seed in self.stuck)])


def run(plan: Plan) -> World:
    """Run one schedule; an error of it gets a note with the seed and the faults."""
    world = World(plan)
    try:
        world.run()
    except BaseException as error:
        faults = [f"  {fault}" for fault in plan.faults if fault.event <= world.num_events]
        again = f"tests.simulator.plan.Plan.{plan.drawn_by}"
        error.add_note("\n".join([f"seed {plan.seed}, {world.trace_hash}; again: {again}", f"{plan}", *faults]))
        raise
    return world


def run_all(plans: Iterable[Plan], *, may_be_stuck: bool = False) -> Account:
    """Run schedules one after the other. `may_be_stuck`: count a run that does not end, instead of raising."""
    account = Account()
    for plan in plans:
        try:
            account.add(run(plan))
        except Stuck:
            if not may_be_stuck:
                raise
            account.stuck.append(plan.seed)
    return account

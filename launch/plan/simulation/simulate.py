"""A run of the shipped buffer core in virtual time, on the machines of a cluster.

    SimulatedActor, SimulatedLearner --messages--> inbox --turn--> BufferCore.handle, tick --messages--> each of them

There is one buffer and no network: a message arrives at once and is read in the next turn, which comes `turn_s` later, as a
burst of frames is read in one round of the service's loop. Nothing is journaled.
"""

from __future__ import annotations

import dataclasses
import gc
import math
from dataclasses import dataclass
from functools import partial
from statistics import fmean

import numpy as np

from ....buffer.core.core import BufferCore
from ....buffer.core.settings import RunSettings
from ....buffer.tickets.settings import TicketSettings
from ....common.config.sections import Config
from ....common.config.trees import largest_eta
from ....common.errors import LearnerStarved
from ....common.messages import FromClient
from ....common.types import TicketState
from .actor import TOKENIZER, SimulatedActor, Verifying
from .cluster import Cluster
from .event_queue import EventQueue
from .journal import SimulatedJournal
from .learner import LEARNER, SimulatedLearner
from .lengths import LengthSampler, simulated_prompts
from .result import Recorder, Simulated

# Where a rollout takes minutes, these are longer than in a real service: turns and heartbeats would be most of the work.
TICK_S, TICKS_A_ROLLOUT = 1.0, 50  # longest time between two turns
TURN_S, TURNS_A_ROLLOUT = 0.002, 250  # from a message to the turn that reads it
BEATS_A_ROLLOUT = 4  # heartbeats
SILENT_BEATS = 2.5  # heartbeats that are missed when an actor counts as gone
FULL = 0.9  # share of the actors' room that is taken when they count as full
VERIFYING = 0.3  # share of the tickets under way that lack nothing but a verdict when verifiers count as the cause
STUCK_ROLLOUTS = 2000  # times of a rollout without a new version, until the simulation gives up


@dataclass(frozen=True, kw_only=True, slots=True)
class ServiceTimes:
    """How often things happen that only look for changes."""

    turn_s: float
    tick_s: float
    beat_s: float
    silence_s: float
    stuck_s: float

    @classmethod
    def of(cls, cluster: Cluster, cfg: Config) -> ServiceTimes:
        """Those of the configuration, or longer ones that are still short beside a rollout's time.

        Where processes die, their silence is noticed when the configuration says.
        """
        tokens = min(kind.mean or fmean(kind.samples) for kind in cluster.lengths)
        step_s = min(pool.step_s(pool.most_running) for pool in cluster.used)
        rollout_s = min(tokens, cfg.sampling.max_tokens) * step_s
        dies = cluster.failures.mtbf_s > 0 or cluster.failures.learner_mtbf_s > 0
        beat_s = cfg.buffer.silence_s / SILENT_BEATS if dies else rollout_s / BEATS_A_ROLLOUT
        beat_s = max(cfg.buffer.heartbeat_s, beat_s)
        return cls(
            turn_s=max(TURN_S, rollout_s / TURNS_A_ROLLOUT),
            tick_s=max(TICK_S, rollout_s / TICKS_A_ROLLOUT),
            beat_s=beat_s,
            silence_s=max(cfg.buffer.silence_s, SILENT_BEATS * beat_s),
            stuck_s=STUCK_ROLLOUTS * max(1.0, rollout_s, cluster.learner.base_s),
        )


class Simulation:
    """One run. Example: result = Simulation(cluster, cfg, steps=30, seed=0).run()"""

    def __init__(self, cluster: Cluster, cfg: Config, *, steps: int, seed: int) -> None:
        self._cluster, self._steps = cluster, steps
        self.events, self._times = EventQueue(), ServiceTimes.of(cluster, cfg)
        settings = _settings(cluster, cfg, steps, seed, self._times.silence_s)
        prompts = simulated_prompts(cluster.lengths, seed)
        self.core = BufferCore.open(settings, prompts, [], TOKENIZER, SimulatedJournal())
        self._recorder = Recorder(steps, self.core.run.counters.total)
        self._verifying = Verifying()
        sampler = LengthSampler(cluster.lengths, cfg.sampling.max_tokens, seed)
        make = partial(
            SimulatedActor,
            cluster=cluster,
            events=self.events,
            sampler=sampler,
            send=self._send,
            clear_kv=cfg.actor.clear_kv,
            heartbeat_s=self._times.beat_s,
            verifying=self._verifying,
        )
        self.actors = {
            name.encode(): make(name, pool)
            for pool, device in cluster.pools.items()
            for name in (f"{pool}-{index}" for index in range(device.count))
        }
        self._by_number = self._recorder.actors = list(self.actors.values())
        self._rng = np.random.default_rng([seed, 22])
        self.learner = SimulatedLearner(
            cluster,
            self.events,
            self._send,
            self._recorder,
            steps=steps,
            checkpoint_every=cfg.checkpoint.every,
            heartbeat_s=self._times.beat_s,
            seed=seed,
        )
        self._capacity = sum(actor.device.capacity for actor in self._by_number)
        self._inbox: list[tuple[bytes, FromClient]] = []
        self._turn_is_due = False
        self._last_turn_s = 0.0
        self._shared = math.inf, 0.0  # cores of a shared host that each may take now, and those that are busy

    def run(self) -> Simulated:
        """Run until the last step. Raises LearnerStarved when no batch comes any more."""
        for actor in self.actors.values():
            actor.greet()
        self.learner.greet()
        self._expect_deaths()
        self.events.after(self._times.tick_s, self._tick)
        # what a simulation makes is freed by its reference counts; the collector would look at all of it again and again
        collects = gc.isenabled()
        gc.disable()
        try:
            while not self.learner.is_done:
                self.events.step()
                if self._cluster.host.cores:
                    self._share_cores()
        finally:
            if collects:
                gc.enable()
        return self._recorder.result(self._steps, self.events.num_events)

    def _share_cores(self) -> None:
        """Slow down whoever wants more cores than its share is, and all for those that are busy beside them."""
        actors, learner = self.actors.values(), self._cluster.learner.cores
        working = [actor.device for actor in actors if actor.engine.works]
        wanted = [device.demand for device in working if device.cores]
        wanted += [(learner, 1.0)] if self.learner.trains and learner else []
        host = self._cluster.host
        share = host.share(wanted)
        busy = sum(min(cores, share) * taken for cores, taken in wanted) + host.others * min(1.0, share)
        if (share, busy) != self._shared:
            self._shared = share, busy
            self.learner.set_speed(host.speed(learner, share, busy))
            for actor in actors:
                actor.set_speed(host.speed(actor.device.cores, share, busy))

    def _expect_deaths(self) -> None:
        failures = self._cluster.failures
        if failures.mtbf_s > 0:
            for index in range(len(self._by_number)):
                self.events.after(self._rng.exponential(failures.mtbf_s), self._kill_actor, index)
        if failures.learner_mtbf_s > 0:
            self.events.after(self._rng.exponential(failures.learner_mtbf_s), self._kill_learner)

    def _kill_actor(self, number: int) -> None:
        failures, actor = self._cluster.failures, self._by_number[number]
        actor.die()
        self.events.after(failures.restart_s, actor.greet)
        self.events.after(failures.restart_s + self._rng.exponential(failures.mtbf_s), self._kill_actor, number)

    def _kill_learner(self, _: int) -> None:
        failures = self._cluster.failures
        self.learner.die()
        self.events.after(failures.learner_restart_s, self.learner.greet)
        again_s = failures.learner_restart_s + self._rng.exponential(failures.learner_mtbf_s)
        self.events.after(again_s, self._kill_learner)

    def _send(self, identity: bytes, message: FromClient) -> None:
        self._inbox.append((identity, message))
        if not self._turn_is_due:
            self._turn_is_due = True
            self.events.after(self._times.turn_s, self._turn)

    def _tick(self, _: int) -> None:
        """Time passes, although nobody says anything."""
        now = self.events.now
        if now - self._recorder.ended_s > self._times.stuck_s:
            ledger = self.core.run.store.ledger.as_dict()
            raise LearnerStarved(
                f"version {self._recorder.version} is the last for {self._times.stuck_s:.3g} virtual s (tickets: {ledger}): "
                "if processes fail, they may fail too often for buffer.lease_s and checkpoint.every"
            )
        self.events.after(self._times.tick_s, self._tick)
        if not self._turn_is_due:
            self._turn(0)

    def _turn(self, _: int) -> None:
        """One round of the service's loop."""
        core, now = self.core, self.events.now
        self._turn_is_due = False
        if self.learner.waits:
            self._recorder.waited(self._cause(), now - max(self._last_turn_s, self.learner.asked_s))
        self._last_turn_s = now
        inbox, self._inbox = self._inbox, []
        outgoing = [answer for identity, message in inbox for answer in core.handle(identity, message, now)]
        outgoing += core.tick(now)
        core.commit()
        for identity, message in outgoing:
            if identity == LEARNER:
                self.learner.hear(message)
            elif self.actors[identity].is_alive:
                self.actors[identity].hear(message)

    def _cause(self) -> str:
        """Why the learner waits now."""
        store = self.core.run.store
        counts = store.ledger.counts
        leased = counts[TicketState.leased]
        if counts[TicketState.stored] >= store.batch_groups:
            return "stragglers"
        if self._verifying.total > VERIFYING * leased:
            return "verifiers"
        if leased * store.sampling.n > FULL * self._capacity:
            return "actors"
        if store.ledger.untrained >= (store.contract.eta + 1) * store.batch_groups:
            return "staleness"
        return "weights" if self.learner.is_publishing else "actors"


def _settings(cluster: Cluster, cfg: Config, steps: int, seed: int, silence_s: float) -> RunSettings:
    settings = RunSettings.from_config(cfg)
    stage = TicketSettings(settings.stages[0].sampling, [kind.share for kind in cluster.lengths])
    buffer = dataclasses.replace(cfg.buffer, silence_s=silence_s)
    # the run goes on behind the last step that is looked at: near its end actors have less and less to do
    more = 2 + largest_eta(cfg.buffer)
    return dataclasses.replace(settings, stages=[stage], steps=steps + more, seed=seed, buffer=buffer)


def simulate(cluster: Cluster, cfg: Config, *, steps: int, seed: int = 0) -> Simulated:
    """Run `steps` learner steps of `cfg` on `cluster`; the same arguments give the same result. Validation is left out.

    Raises LearnerStarved when the run cannot go on, LedgerError and StalenessViolation for faults of the core.
    """
    return Simulation(cluster, cfg, steps=steps, seed=seed).run()

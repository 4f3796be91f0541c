"""Training tickets from issue to trained: ledger, staleness contract, filter, prompts and batch log moved by one hand.

issue -> result -> try_take -> step_done            (the life of a ticket that is trained)
         fail_ticket                                (its prompt is reissued)
core/generations.py moves the whole store when a learner restarts.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from ...common.config.sections import Config, Straggler
from ...common.config.stages import staged_configs, total_steps
from ...common.errors import StalenessViolation
from ...common.types import Batch, Group, Prompt, Sampling, Ticket, TicketKind, TicketState
from .counters import Counters
from .filters import Judgement, SignalFilter
from .group_checks import Defect, group_defect, version_defect
from .ledger import Ledger
from .mixture import PromptMixture
from .staleness import StalenessContract
from .survival import Survival

MAX_ATTEMPTS = (
    5  # tickets for one prompt; a prompt that fails more often is left out, so that it cannot hold up the run for ever
)


class Outcome(StrEnum):
    """What became of a group that was asked for."""

    stored = "stored"
    filtered = "filtered"
    stale = "stale"
    failed = "failed"


@dataclass(frozen=True, slots=True)
class Stage:
    """How tickets are issued in one stage of the run."""

    sampling: Sampling
    weights: list[float]  # of the mixture's sources

    @classmethod
    def from_config(cls, cfg: Config) -> Stage:
        """The stage of a staged configuration."""
        drawn = cfg.sampling
        sampling = Sampling(n=drawn.n, temperature=drawn.temperature, top_p=drawn.top_p, max_tokens=drawn.max_tokens)
        return cls(sampling, cfg.data.mixture)


class Store:
    """The training tickets of the current generation."""

    def __init__(self, cfg: Config, mixture: PromptMixture, counters: Counters) -> None:
        self.mixture, self.counters = mixture, counters
        self.batch_groups = cfg.buffer.batch_groups
        self.generation = 0  # of the learner's timeline; 0 before the first learner
        self.version = 0  # of the learner
        self.ledger = Ledger()
        self.retries: deque[tuple[Prompt, int]] = deque()  # prompts to be issued again, with their next attempt
        self.contract = StalenessContract(
            eta=cfg.buffer.eta,
            batch=self.batch_groups,
            steps=total_steps(cfg),
            straggler=cfg.buffer.straggler,
            preference=cfg.buffer.preference,
        )
        limit = int(cfg.buffer.max_filtered * self.batch_groups)
        self.filter = SignalFilter(enabled=cfg.buffer.dynamic_sampling, limit=limit)
        self.survival = Survival()
        self._seed, self._lease_s = cfg.run.seed, cfg.buffer.lease_s
        self._masks = cfg.buffer.straggler is Straggler.mask
        self.reset_requested = False  # the next batch to be formed asks for a reset of the reference
        self.stages = [Stage.from_config(staged) for staged in staged_configs(cfg)]
        self.enter(0)

    @property
    def head(self) -> int:
        """The version of the next batch to be formed; recorded batches lie below it."""
        return self.contract.head

    def enter(self, stage: int) -> None:
        """Tickets are issued as this stage says from now on; what is under way keeps what it was issued with."""
        self.stage = stage
        self.sampling = self.stages[stage].sampling
        self.mixture.weigh(self.stages[stage].weights)

    def enter_later(self, stage: int) -> None:
        """The learner names its stage: news only if it is a later one (a learner that redoes steps names earlier ones)."""
        if not 0 <= stage < len(self.stages):
            self.counters.count("buffer/unknown_stages")
        elif stage > self.stage:
            self.enter(stage)

    def admits(self, version: int) -> bool:
        """Whether a ticket may go to an actor that holds `version` of this generation."""
        return self.contract.admits(version, self.version, self.ledger.untrained)

    def issue(self, ordinal: int, version: int) -> Ticket:
        """Issue and lease a ticket to an actor that holds `version`: prompts that failed go first, then the mixture's next."""
        prompt, attempt = self.retries.popleft() if self.retries else (self.mixture.next(), 0)
        ticket = Ticket(
            ordinal=ordinal,
            kind=TicketKind.train,
            prompt=prompt,
            sampling=self.sampling,
            seed=ticket_seed(self._seed, ordinal),
            generation=self.generation,
            version=version,
            lease_s=self._lease_s,
        )
        self.ledger.issue(ticket, attempt)
        self.contract.issue(ordinal, version)
        self.ledger.move(ordinal, TicketState.leased)
        return ticket

    def result(self, group: Group, ticket: Ticket, frame: bytes = b"") -> tuple[Outcome, str]:
        """Take the group of a leased ticket; (what became of it, why). `frame`: what it came in, for the journal."""
        defect = self._defect(group, ticket)
        if defect is not None:
            self.counters.count("buffer/failed_groups")
            self.counters.count(f"buffer/flawed_{defect.kind}")
            self.fail_ticket(group.ordinal)
            return Outcome.failed, defect.why
        version = self.deadline_version(group)
        if not self.contract.in_time(version):
            self.contract.drop(group.ordinal)
            self._evict(group.ordinal, group)
            return Outcome.stale, f"its tokens are of version {version}, the next batch is of version {self.head}"
        judgement = self.filter.judge(group)
        if judgement is Judgement.drop:
            self.counters.count("buffer/filtered")
            self.contract.drop(group.ordinal)
            self.ledger.move(group.ordinal, TicketState.filtered)
            return Outcome.filtered, "its rewards carry no signal"
        if judgement is Judgement.bypass:
            self.counters.count("buffer/bypassed")
        self.ledger.store(group, frame)
        self.contract.store(group.ordinal, version)
        return Outcome.stored, ""

    def deadline_version(self, group: Group) -> int:
        """The version that decides by when a group must be trained."""
        return group.newest_version if self._masks else group.oldest_version

    def _defect(self, group: Group, ticket: Ticket) -> Defect | None:
        """Why a group cannot be trained, whatever its age; None when it can."""
        if len(group.rollouts) < 2:
            return Defect("few", f"{len(group.rollouts)} rollouts are left, a group needs 2")
        if any(rollout.verdict.reward is None for rollout in group.rollouts):
            return Defect("unrewarded", "a rollout has no reward")
        if defect := group_defect(group):
            return defect
        return version_defect(group, ticket.version, self.head)

    def fail_ticket(self, ordinal: int) -> None:
        """A ticket came to nothing: its prompt is issued again, as a fresh ticket, before any other prompt."""
        self.contract.drop(ordinal)
        entry = self.ledger.move(ordinal, TicketState.failed)
        if entry.attempt + 1 < MAX_ATTEMPTS:
            self.retries.append((entry.ticket.prompt, entry.attempt + 1))
        else:
            self.counters.count("buffer/prompts_given_up")

    def distrust(self, actor: str, version: int) -> None:
        """Stored groups of an actor with tokens of `version` or later fail: its weights were not what they should be."""
        for entry in self.ledger.entries():
            group = entry.group
            if group is not None and group.actor == actor and group.newest_version >= version:
                self.fail_ticket(group.ordinal)

    def _evict(self, ordinal: int, group: Group) -> None:
        self.counters.count("buffer/evicted")
        self.survival.record(group, survived=False)
        self.ledger.move(ordinal, TicketState.stale)

    def try_take(self) -> Batch | None:
        """Form the batch of version `head`, if the contract allows one. The caller logs it before anybody sees it."""
        chosen = self.contract.choose()
        if chosen is None:
            return None
        version = self.head
        for ordinal in self.contract.take(chosen):
            late = self.ledger.find(ordinal)
            assert late is not None
            assert late.group is not None
            self._evict(ordinal, late.group)
        groups: list[Group] = []
        for ordinal in chosen:
            group = self.ledger.move(ordinal, TicketState.batched).group
            assert group is not None
            self.survival.record(group, survived=True)
            groups.append(group)
        ages = [self._staleness(group, version) for group in groups]
        if max(ages) > self.contract.eta:
            raise StalenessViolation(
                f"a group of staleness {max(ages)} was chosen at version {version}, eta is {self.contract.eta}"
            )
        metrics = {"buffer/staleness_mean": sum(ages) / len(ages), "buffer/staleness_max": float(max(ages))}
        metrics |= {f"buffer/ledger_{state}": float(count) for state, count in self.ledger.as_dict().items()}
        self.filter.next_step()
        return Batch(generation=self.generation, version=version, groups=groups, metrics=metrics | self.survival.rates())

    def _staleness(self, group: Group, version: int) -> int:
        """Age of the oldest token that will be trained at `version`."""
        versions = (span.version for rollout in group.rollouts for span in rollout.spans)
        if self._masks:
            versions = (v for v in versions if v + self.contract.eta >= version)
        return version - min(versions)

    def step_done(self) -> None:
        """The learner made version + 1 of the batch it has."""
        self.ledger.shift(TicketState.batched, TicketState.trained, self.batch_groups)
        self.version += 1

    def check(self) -> None:
        """Raise LedgerError unless the ledger balances and agrees with the learner's version."""
        self.ledger.check(self.version * self.batch_groups)


def ticket_seed(run_seed: int, ordinal: int) -> int:
    """The sampling seed of a ticket: a function of the run's seed and its ordinal alone."""
    return int(np.random.SeedSequence([run_seed, ordinal]).generate_state(1)[0]) & 0x7FFFFFFF

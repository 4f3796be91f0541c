"""Watches what the core sends, and its ledger, from outside: its own record of tickets, groups and batches."""

from __future__ import annotations

from typing import Any

import msgspec
from prolong.buffer.core import BufferCore
from prolong.common import messages as m
from prolong.common.config import Straggler
from prolong.common.types import Batch, Group, Ticket, TicketKind, TicketState

from .plan import Plan


class Violation(AssertionError):
    """The core broke a promise."""


class Judge:
    """Watches what the core sends, and its ledger, and raises Violation."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.issued: set[int] = set()  # ordinals of training tickets
        self.stored: set[int] = set()  # ordinals of groups that were accepted to be trained
        self.made_by_actors: dict[int, Group] = {}
        self.handed_out: dict[tuple[int, int], bytes] = {}  # (generation, version) -> the batch
        self.used: set[int] = set()  # ordinals in any batch
        self.num_served_again = self.num_sent_again = 0
        self.sent: dict[int, tuple[Ticket, str]] = {}  # every ticket, and to whom
        self.counts_tickets = True
        self.generation = 0  # of the last learner that was let in
        self.stages = (0, 0)  # lowest and highest that the buffer may be in
        self.seen_uids: set[str] = set()  # of prompts that were issued
        self.reset_due: tuple[int, int] | None = None  # (generation, version) of the batch that will ask for it
        self.num_resets = self.num_mixed = self.num_resets_across_crashes = 0
        self.crashed_with_reset_due = False
        self.last_word: m.Status | None = None

    def made(self, group: Group) -> None:
        self.made_by_actors[group.ordinal] = group

    def saw(self, message: Any, core: BufferCore, to: str) -> None:
        match message:
            case m.Tickets():
                for ticket in message.tickets:
                    self.ticket(ticket, to)
            case m.GroupAck() if message.accepted and not message.reason and message.ordinal in self.issued:
                self.stored.add(message.ordinal)
            case m.BatchReady():
                self.batch(message.batch)
            case m.Finished():
                self.last_word = message.status
                return
            case _:
                return
        self.deadlines(core)

    def learner_said(self, identity: bytes, message: Any, out: list[Any], core: BufferCore) -> None:
        """Keep track of the stage that the buffer must be in."""
        match message:
            case m.Hello(role=m.Role.learner) if out and isinstance(out[0][1], m.Welcome):
                forked, self.generation = out[0][1].generation != self.generation, out[0][1].generation
                low, high = (0, 0) if forked else self.stages
                self.stages = max(low, message.stage), max(high, message.stage)
            case m.StepDone() if core.peers.learner is not None and core.peers.learner.identity == identity:
                if (message.generation, message.version) == (self.generation, core.store.version):
                    self.stages = max(self.stages[0], message.stage), max(self.stages[1], message.stage)

    def buffer_crashed(self) -> None:
        self.counts_tickets = False  # those after the last record are forgotten
        self.stages = 0, self.stages[1]  # the last change may be forgotten, until the learner names it again
        self.crashed_with_reset_due = self.reset_due is not None

    def ticket(self, ticket: Ticket, to: str) -> None:
        """Issued once; the same actor may be sent it again, as it was."""
        if ticket.ordinal in self.sent:
            if self.sent[ticket.ordinal] != (ticket, to):
                raise Violation(f"issued twice: {ticket} to {to}")
            self.num_sent_again += 1
            return
        self.sent[ticket.ordinal] = (ticket, to)
        if ticket.kind is TicketKind.train:
            self.issued.add(ticket.ordinal)
        self.staged(ticket)

    def staged(self, ticket: Ticket) -> None:
        """A ticket is as the stage says, which is the learner's."""
        if ticket.kind is TicketKind.validation:
            if ticket.sampling.n not in (1, 2) or ticket.sampling.temperature not in (0.0, 0.6):
                raise Violation(f"a validation ticket asks for {ticket.sampling}")
            return
        stage = round(ticket.sampling.temperature - 1.0)
        phase = self.plan.stages[stage]
        if not self.stages[0] <= stage <= self.stages[1] or ticket.sampling.n != phase.n:
            raise Violation(f"a ticket of stage {stage} asks for {ticket.sampling}, the learner is in {self.stages}")
        uid = ticket.prompt.uid
        if uid not in self.seen_uids and phase.weights[uid.partition("/")[0]] == 0:
            raise Violation(f"stage {stage} leaves out the source of {uid}")
        self.seen_uids.add(uid)

    def reset_answered(self, answer: Any, core: BufferCore, *, last_words: bool) -> None:
        if isinstance(answer, m.ResetNoted):
            self.reset_due = self.reset_due or (self.generation, answer.version)
        elif not last_words and core.store.generation > 0 and core.store.head < self.plan.steps:
            raise Violation(f"a reset was refused: {answer}")

    def reset(self, batch: Batch) -> None:
        """A batch asks for a reset exactly when somebody did since the last one."""
        if batch.reset_requested != (self.reset_due is not None):
            raise Violation(f"batch {batch.version} asks for a reset: {batch.reset_requested}, due: {self.reset_due}")
        if self.reset_due is None:
            return
        generation, version = self.reset_due
        if generation == batch.generation and version != batch.version:
            raise Violation(f"a reset was promised for batch {version} and went out with {batch.version}")
        self.num_resets += 1
        self.num_resets_across_crashes += self.crashed_with_reset_due
        self.reset_due, self.crashed_with_reset_due = None, False

    def batch(self, batch: Batch) -> None:
        """B groups as the actors made them, young enough, none used before; the very same when served again."""
        key, encoded = (batch.generation, batch.version), msgspec.msgpack.encode(batch)
        if key in self.handed_out:
            self.num_served_again += 1
            if self.handed_out[key] != encoded:
                raise Violation(f"the batch of {key} was served again, but differs")
            return
        self.handed_out[key] = encoded
        self.reset(batch)
        self.num_mixed += len({group.sampling.n for group in batch.groups}) > 1
        ordinals = [group.ordinal for group in batch.groups]
        if len(ordinals) != self.plan.batch or ordinals != sorted(set(ordinals)) or self.used & set(ordinals):
            raise Violation(f"batch {key} has groups {ordinals}; used before: {self.used & set(ordinals)}")
        self.used |= set(ordinals)
        for group in batch.groups:
            if group.kind is not TicketKind.train or group != self.made_by_actors.get(group.ordinal):
                raise Violation(f"batch {key} holds a group that nobody made: {group.ordinal}")
            versions = [span.version for rollout in group.rollouts for span in rollout.spans]
            oldest_trained = max(versions) if self.plan.straggler is Straggler.mask else min(versions)
            if batch.version - oldest_trained > self.plan.eta:
                raise Violation(f"group {group.ordinal} of versions {versions} is in batch {key}, eta {self.plan.eta}")
            if group.generation != batch.generation:
                raise Violation(f"group {group.ordinal} of generation {group.generation} is in batch {key}")

    def deadlines(self, core: BufferCore) -> None:
        """`wait`: for every k, at most k B tickets must be in the next k batches."""
        if self.plan.straggler is not Straggler.wait:
            return
        ages = [e.group.oldest_version if e.group else e.ticket.version for e in core.store.ledger.entries()]
        for k in range(self.plan.eta + 1):
            due = sum(version + self.plan.eta < core.store.head + k for version in ages)
            if due > k * self.plan.batch:
                raise Violation(f"{due} tickets are due in the next {k} batches of {self.plan.batch}: versions {ages}")

    def balanced(self, core: BufferCore) -> None:
        counts, total = core.store.ledger.counts, core.store.ledger.total
        if total != sum(counts.values()) or counts[TicketState.trained] != core.store.version * self.plan.batch:
            raise Violation(f"out of balance: {total} issued, {counts}, version {core.store.version}")
        if self.counts_tickets and total != len(self.issued):
            raise Violation(f"{len(self.issued)} tickets were sent, the ledger knows {total}: {counts}")
        if counts[TicketState.leased] + counts[TicketState.stored] > (self.plan.eta + 1) * self.plan.batch:
            raise Violation(f"more tickets under way than admission allows: {counts}")

    def end(self, *, untroubled: bool) -> None:
        """What the last word says must be the whole run."""
        assert self.last_word is not None
        counts = self.last_word.ledger
        live = sum(counts[state] for state in ("issued", "leased", "stored", "batched"))
        if live or counts["trained"] != self.plan.last * self.plan.batch:
            raise Violation(f"the run ended with {counts}")
        if untroubled and self.plan.straggler is Straggler.wait and self.plan.last == self.plan.steps:
            if counts["stale"]:
                raise Violation(f"`wait` dropped {counts['stale']} groups")
            if self.stored - self.used:
                raise Violation(f"`wait` lost the groups {self.stored - self.used}")
        scored = {(score.version, score.setting) for score in self.last_word.validation}
        due = {(version, setting) for version in (0, self.plan.last) for setting in ("sampled", "greedy")}
        if self.plan.heldout and not due <= scored and not self.last_word.counters.get("validation/empty_sweeps"):
            raise Violation(f"the run ended before its validation: {due - scored}")

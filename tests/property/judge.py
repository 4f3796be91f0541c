"""Watches what the core sends, and its ledger, from outside: its own record of tickets, groups and batches."""

from __future__ import annotations

from typing import Any

import msgspec
from prolong.buffer.core import BufferCore
from prolong.common import messages as m
from prolong.common.config import Straggler
from prolong.common.types import Batch, Group, TicketKind, TicketState

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
        self.num_served_again = 0
        self.counts_tickets = True
        self.last_word: m.Status | None = None

    def made(self, group: Group) -> None:
        self.made_by_actors[group.ordinal] = group

    def saw(self, message: Any, core: BufferCore) -> None:
        match message:
            case m.Tickets():
                fresh = {ticket.ordinal for ticket in message.tickets if ticket.kind is TicketKind.train}
                if fresh & self.issued:
                    raise Violation(f"issued twice: {fresh & self.issued}")
                self.issued |= fresh
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

    def batch(self, batch: Batch) -> None:
        """B groups as the actors made them, young enough, none used before; the very same when served again."""
        key, encoded = (batch.generation, batch.version), msgspec.msgpack.encode(batch)
        if key in self.handed_out:
            self.num_served_again += 1
            if self.handed_out[key] != encoded:
                raise Violation(f"the batch of {key} was served again, but differs")
            return
        self.handed_out[key] = encoded
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
        if live or counts["trained"] != self.plan.steps * self.plan.batch:
            raise Violation(f"the run ended with {counts}")
        if untroubled and self.plan.straggler is Straggler.wait:
            if counts["stale"]:
                raise Violation(f"`wait` dropped {counts['stale']} groups")
            if self.stored - self.used:
                raise Violation(f"`wait` lost the groups {self.stored - self.used}")
        scored = {(score.version, score.setting) for score in self.last_word.validation}
        due = {(version, setting) for version in (0, self.plan.steps) for setting in ("sampled", "greedy")}
        if self.plan.heldout and not due <= scored:
            raise Violation(f"the run ended before its validation: {due - scored}")

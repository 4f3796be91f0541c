"""The judge: it sees from outside all that the buffer hears, decides and says, and keeps a record of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
from prolong.buffer.core.core import BufferCore
from prolong.buffer.core.dispatch import HANDED_OVER
from prolong.buffer.journal.journal import Journal
from prolong.common import messages as m
from prolong.common.config.sections import Straggler
from prolong.common.errors import JournalError, LedgerError, StalenessViolation
from prolong.common.types import Batch, Group, Ticket, TicketKind, TicketState

from .audit import Audit, Violation
from .plan import WRONG, Plan


class Judge:
    """Raises Violation when a promise is broken."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.audit = plan, Audit(plan)
        self.made_by_actors: dict[int, Group] = {}  # not in a batch yet
        self.accepted: set[int] = set()  # tickets whose group the buffer took
        self.accepted_since_commit: set[int] = set()  # of them: undone when the buffer dies now
        self.acknowledged: set[int] = set()  # groups that the buffer said it stored
        self.handed_out: dict[tuple[int, int], bytes] = {}  # (generation, version) -> digest of the batch
        self.sent: dict[int, tuple[Ticket, list[str]]] = {}  # every ticket, and the actor that it was sent to
        self.handed_over: dict[int, Ticket] = {}  # taken from an actor that left, as the next one must get it
        self.num_gone_on = 0  # tickets that another actor got then
        self.trained_at: dict[int, int] = {}  # ordinal -> version, in the learner's present history
        self.steps: dict[int, list[int]] = {}  # version -> ordinals, in the same history
        self.num_served_again = self.num_sent_again = self.num_rollouts = 0
        self.num_resets = self.num_mixed = self.num_resets_across_crashes = 0
        self.generation = 0  # of the last learner that was let in
        self.etas: set[int] = set()  # that tickets were issued under
        self.stages = self.lasting_stages = (0, 0)  # lowest and highest that the buffer may be in
        self.promised: list[int] = []  # versions of batches that will ask for a reset
        self.lasting_promised: list[int] = []
        self.crashed_since_promise = False
        self.max_lag = 0.0  # versions that an actor with weights was behind, of all batches
        self.seen_uids: set[str] = set()  # of prompts that were issued
        self.last_word: m.Status | None = None

    # --- the buffer hears -------------------------------------------------------------------------

    def made(self, group: Group) -> None:
        # a ticket that arrives twice may be worked on again after its group was taken
        if group.ordinal not in self.accepted:
            self.made_by_actors[group.ordinal] = group

    def must_refuse(self, message: Any, core: BufferCore) -> str:
        """The reason why a group must be refused, by the judge's own record; empty for any other message."""
        if isinstance(message, m.TicketHandedOver):
            ordinal, generation = message.ordinal, message.generation
            kind = self.sent[ordinal][0].kind
        elif isinstance(message, m.GroupResult):
            ordinal, generation, kind = message.group.ordinal, message.group.generation, message.group.kind
        else:
            return ""
        if generation != self.generation:
            return f"generation {generation} is over"
        if ordinal in self.accepted:
            return f"ticket {ordinal} is settled"
        return "the run has ended" if core.finishing and kind is TicketKind.train else ""

    @contextmanager
    def rules_on(self, message: Any, core: BufferCore) -> Iterator[None]:
        """Say which promise is broken when the buffer fails on a message, or (None) on a tick.

        The error itself proves nothing: a crash that breaks no promise of the judge's record is passed on as it is.
        """
        reason = self.must_refuse(message, core)
        try:
            yield
        except (LedgerError, StalenessViolation, JournalError, KeyError) as error:
            if reason:
                raise Violation(f"a group was taken that must be refused: {reason}") from error
            self.balanced(core)
            self.deadlines(core)
            self.leases(core)
            if isinstance(error, KeyError):
                raise
            raise Violation(f"the buffer stopped itself: {error}") from error

    @contextmanager
    def start(self) -> Iterator[None]:
        """A buffer that finds its journal broken is a broken promise."""
        try:
            yield
        except JournalError as error:
            raise Violation(f"the buffer cannot start again: {error}") from error

    def heard(self, identity: bytes, message: Any, out: list[Any], core: BufferCore) -> None:
        """Keep track of groups taken, of the stage that the buffer must be in, and of resets that it promised."""
        match message:
            case m.GroupResult() if out and isinstance(out[0][1], m.GroupAck) and out[0][1].accepted:
                reason = self.must_refuse(message, core)
                if reason:
                    raise Violation(f"a group was taken that must be refused: {reason}")
                self.accepted.add(message.group.ordinal)
                self.accepted_since_commit.add(message.group.ordinal)
            case m.TicketHandedOver() if out and isinstance(out[0][1], m.GroupAck) and out[0][1].accepted:
                reason = self.must_refuse(message, core)
                ticket, (actor, *_) = self.sent[message.ordinal]
                if reason or actor != identity.decode().split("/")[1]:
                    raise Violation(f"a ticket of {actor} was taken from {identity!r}: {reason}")
                self.handed_over[message.ordinal] = msgspec.structs.replace(ticket, started=message.started)
            case m.Hello(role=m.Role.learner) if out and isinstance(out[0][1], m.Welcome):
                forked, self.generation = out[0][1].generation != self.generation, out[0][1].generation
                low, high = (0, 0) if forked else self.stages
                self.stages = max(low, message.stage), max(high, message.stage)
                if forked:
                    self.audit.disowned = True
                    self.promised = [core.run.store.head] if core.run.store.reset_requested else []
            case m.StepDone() if core.peers.learner is not None and core.peers.learner.identity == identity:
                if (message.generation, message.version) == (self.generation, core.run.store.version):
                    self.stages = max(self.stages[0], message.stage), max(self.stages[1], message.stage)
            case m.WeightsApplied() if message.checksums == [WRONG]:
                self.audit.distrusts = True
            case m.Finish():
                self.audit.disowned = True
            case m.RequestReset():
                self.reset_answered(out[0][1], core)

    def reset_answered(self, answer: Any, core: BufferCore) -> None:
        if isinstance(answer, m.ResetNoted):
            self.promised += [] if answer.version in self.promised else [answer.version]
        elif not core.finishing and core.run.store.generation > 0 and core.run.store.head < self.plan.steps:
            raise Violation(f"a reset was refused: {answer}")

    # --- it decides -------------------------------------------------------------------------------

    def issued(self, ticket: Ticket) -> None:
        """Check a ticket: it must have the settings of the learner's stage, unless it was handed over and keeps its own."""
        if ticket.ordinal in self.handed_over:
            return
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

    def admitted(self, ticket: Ticket, core: BufferCore) -> None:
        """Check a training ticket that was just issued: under the eta of now, with as much under way as that admits."""
        if ticket.kind is not TicketKind.train or ticket.ordinal in self.handed_over:
            return
        low, high = self.plan.adaptive.get("min", self.plan.eta), self.plan.eta_max
        now = core.status(0.0).eta
        if ticket.eta is None or not low <= ticket.eta <= high or ticket.eta != now:
            raise Violation(f"ticket {ticket.ordinal} was issued under eta {ticket.eta}, it is {now}, between {low} and {high}")
        self.etas.add(ticket.eta)
        untrained = core.run.store.ledger.untrained
        if untrained > (ticket.eta + 1) * self.plan.batch:
            raise Violation(f"{untrained} tickets are under way, eta {ticket.eta} admits fewer, {self.plan.batch} a batch")

    def deadlines(self, core: BufferCore) -> None:
        """Check the contract of `wait`: for every k, at most k B tickets are due in the next k batches."""
        if self.plan.straggler is not Straggler.wait:
            return
        entries = core.run.store.ledger.entries()
        ages = [(e.group.oldest_version if e.group else e.ticket.version, e.ticket.eta or 0) for e in entries]
        for k in range(self.plan.eta_max + 1):
            due = sum(version + eta < core.run.store.head + k for version, eta in ages)
            if due > k * self.plan.batch:
                raise Violation(f"{due} tickets are due in the next {k} batches of {self.plan.batch}: (version, eta) {ages}")

    def leases(self, core: BufferCore) -> None:
        """Check that no ticket is leased whose group was taken."""
        settled = [lease.ticket.ordinal for lease in core.run.leases.all() if lease.ticket.ordinal in self.accepted]
        if settled:
            raise Violation(f"tickets {settled} are settled, and leased")
        under_way = [lease.ticket for lease in core.run.leases.all()] + [each.ticket for each in core.run.handovers.all()]
        ordinals = [ticket.ordinal for ticket in under_way]
        if len(set(ordinals)) != len(ordinals):
            raise Violation(f"tickets are leased and wait for an actor: {sorted(ordinals)}")
        counted = core.run.counters.total
        tokens = sum(ticket.num_started_tokens for ticket in under_way)
        tokens += counted["buffer/saved_tokens"] + counted["buffer/lost_tokens"]
        if tokens != counted["buffer/handed_over_tokens"]:
            raise Violation(f"{counted['buffer/handed_over_tokens']} tokens were handed over, {tokens} are accounted for")

    def balanced(self, core: BufferCore) -> None:
        """Check that the ledger adds up and admission holds. Called after every event."""
        counts, total = core.run.store.ledger.counts, core.run.store.ledger.total
        if total != sum(counts.values()) or counts[TicketState.trained] != core.run.store.version * self.plan.batch:
            raise Violation(f"out of balance: {total} issued, {counts}, version {core.run.store.version}")
        under_way = counts[TicketState.issued] + counts[TicketState.leased] + counts[TicketState.stored]
        if under_way > (self.plan.eta_max + 1) * self.plan.batch:
            raise Violation(f"more tickets under way than admission allows: {counts}")

    # --- a commit lasts ---------------------------------------------------------------------------

    def committed(self, put: Any, drop: Any) -> None:
        """Check a commit that reached the disk: a batch asks for a reset exactly when one was promised."""
        forked = self.audit.disowned
        self.audit.committed(put, drop)
        for version, asks in self.audit.resets:
            due = next((promised for promised in self.promised if promised <= version), None)
            if asks != (due is not None) and not forked:
                raise Violation(f"batch {version} asks for a reset: {asks}, due: {due}")
            if asks:
                self.num_resets += 1
                self.num_resets_across_crashes += self.crashed_since_promise
            self.promised = [promised for promised in self.promised if promised > version]
        if not self.promised:
            self.crashed_since_promise = False
        self.accepted_since_commit.clear()
        self.lasting_stages, self.lasting_promised = self.stages, list(self.promised)

    def buffer_started(self, core: BufferCore, journal: Journal) -> None:
        """Forget what the last buffer did not commit: it never happened."""
        self.stages, self.promised = self.lasting_stages, list(self.lasting_promised)
        self.accepted -= self.accepted_since_commit
        self.accepted_since_commit.clear()
        self.crashed_since_promise = bool(self.promised)
        self.generation = core.run.store.generation
        self.audit.started(core, journal)

    # --- it says ----------------------------------------------------------------------------------

    def said(self, message: Any, to: list[str], frame: bytes) -> None:
        """Check a message that leaves: all that it follows from must be on the disk."""
        audit = self.audit
        match message:
            case m.Tickets():
                for ticket in message.tickets:
                    self.ticket(ticket, to)
            case m.GroupAck() if message.accepted and not message.reason and message.ordinal in audit.issued:
                self.acknowledged.add(message.ordinal)
                if message.ordinal not in audit.ever_stored:
                    raise Violation(f"group {message.ordinal} was acknowledged before it was durable")
            case m.GroupAck(accepted=True, reason=reason) if reason == HANDED_OVER:
                if message.ordinal in audit.issued and message.ordinal not in audit.ever_handed_over:
                    raise Violation(f"ticket {message.ordinal} was handed over, and acknowledged before it was durable")
            case m.GroupAck() if message.ordinal not in audit.stored and message.ordinal not in audit.used:
                # that of an actor that handed the ticket over says nothing of the next one's group
                if self.sent.get(message.ordinal, (None, to))[1] == to:
                    self.made_by_actors.pop(message.ordinal, None)
            case m.BatchReady():
                if (message.batch.generation, message.batch.version) not in audit.logged:
                    raise Violation(f"batch {message.batch.version} was handed out before it was durable")
                self.batch(message.batch, frame)
            case m.Welcome() if message.generation > audit.generation:
                raise Violation(f"generation {message.generation} was announced before it was durable")
            case m.Finished():
                self.last_word = message.status

    def ticket(self, ticket: Ticket, to: list[str]) -> None:
        """Check a ticket that leaves: it is issued once, and may be sent again to the same actor, unchanged.

        Another actor gets it only once it was handed over, with exactly what was.
        """
        if ticket.ordinal in self.sent:
            if self.sent[ticket.ordinal] != (ticket, to):
                if self.handed_over.pop(ticket.ordinal, None) != ticket:
                    raise Violation(f"issued twice: {ticket} to {to}")
                self.num_gone_on += 1
                self.sent[ticket.ordinal] = ticket, to
                return
            self.num_sent_again += 1
            return
        if ticket.ordinal >= self.audit.next_ordinal:
            raise Violation(f"ticket {ticket.ordinal} was sent before it was durable")
        if ticket.kind is TicketKind.train and ticket.ordinal not in self.audit.issued:
            raise Violation(f"ticket {ticket.ordinal} was sent, the journal has no move of it")
        self.sent[ticket.ordinal] = (ticket, to)

    def batch(self, batch: Batch, frame: bytes) -> None:
        """Check a batch that leaves: B groups as actors made them, young enough, not used before; the same when repeated."""
        key, digest = (batch.generation, batch.version), hashlib.blake2b(frame, digest_size=16).digest()
        if key in self.handed_out:
            self.num_served_again += 1
            if self.handed_out[key] != digest:
                raise Violation(f"the batch of {key} was served again, but differs")
            return
        self.handed_out[key] = digest
        self.max_lag = max(self.max_lag, batch.metrics.get("weights/lag_max", 0.0))
        self.num_mixed += len({group.sampling.n for group in batch.groups}) > 1
        self.num_rollouts += sum(len(group.rollouts) for group in batch.groups)
        ordinals = [group.ordinal for group in batch.groups]
        if len(ordinals) != self.plan.batch or ordinals != sorted(set(ordinals)):
            raise Violation(f"batch {key} has groups {ordinals}")
        for group in batch.groups:
            if group.kind is not TicketKind.train or group != self.made_by_actors.pop(group.ordinal, None):
                raise Violation(f"batch {key} holds a group that no actor made, or one a second time: {group.ordinal}")
            versions = [span.version for rollout in group.rollouts for span in rollout.spans]
            oldest_trained = max(versions) if self.plan.straggler is Straggler.mask else min(versions)
            eta = self.sent[group.ordinal][0].eta
            if group.eta != eta or eta is None or batch.version - oldest_trained > eta:
                raise Violation(f"group {group.ordinal} of versions {versions} is in batch {key}, its ticket had eta {eta}")
            if group.generation != batch.generation:
                raise Violation(f"group {group.ordinal} of generation {group.generation} is in batch {key}")

    # --- the learner trains -----------------------------------------------------------------------

    def learner_started(self, version: int) -> None:
        """A learner starts from a checkpoint: its weights do not have the later steps."""
        for undone in [step for step in self.steps if step >= version]:
            for ordinal in self.steps.pop(undone):
                self.trained_at.pop(ordinal, None)

    def trains(self, batch: Batch, version: int, generation: int) -> None:
        """Check a step: no group twice in one history, none of another generation."""
        if (batch.generation, batch.version) != (generation, version):
            raise Violation(f"the learner at {version} of generation {generation} trains {batch.generation, batch.version}")
        self.steps[version] = [group.ordinal for group in batch.groups]
        for ordinal in self.steps[version]:
            if self.trained_at.setdefault(ordinal, version) != version:
                raise Violation(f"group {ordinal} was trained at {self.trained_at[ordinal]} and at {version}")

    # --- the end ----------------------------------------------------------------------------------

    def end(self, *, untroubled: bool) -> None:
        """Check the last status: it must account for the whole run."""
        assert self.last_word is not None
        counts = self.last_word.ledger
        live = sum(counts[state] for state in ("issued", "leased", "stored", "batched"))
        if live or counts["trained"] != self.plan.last * self.plan.batch or counts["total"] != self.audit.num_issued:
            raise Violation(f"the run ended with {counts}, {self.audit.num_issued} tickets were issued")
        if sorted(self.steps) != list(range(self.plan.last)):
            raise Violation(f"the learner made the steps {sorted(self.steps)} of {self.plan.last}")
        if untroubled and self.plan.straggler is Straggler.wait and self.plan.last == self.plan.steps:
            if counts["stale"]:
                raise Violation(f"`wait` dropped {counts['stale']} groups")
            lost = self.acknowledged - self.trained_at.keys() - self.audit.given_up
            if lost:
                raise Violation(f"`wait` lost the groups {lost}")
        scored = {(score.version, score.setting) for score in self.last_word.validation}
        due = {(version, setting) for version in (0, self.plan.last) for setting in ("sampled", "greedy")}
        if self.plan.heldout and not due <= scored and not self.last_word.counters.get("validation/empty_sweeps"):
            raise Violation(f"the run ended before its validation: {due - scored}")

"""One run as the buffer holds it in memory, and as the journal keeps it: the owner of both.

    RunState.open       an empty run, or the one that the journal describes
    collect             adds what changed since the last call to the journal's pending changes
    commit              makes the pending changes durable; nothing that follows from a change may be said before

Every part is changed by its own methods only. What changes several of them at once (a learner continues or begins a
generation, a checkpoint is durable, the run ends) is a method here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import Future

from ...common.config.trees import adaptive_config
from ...common.types import Group, Prompt, StepEvidence, Ticket, TicketKind, TicketState
from ..forecast.forecast import Forecast
from ..journal import records as r
from ..journal.journal import Journal
from ..tickets.api import PromptSource
from ..tickets.counters import Counters
from ..tickets.handovers import Handovers
from ..tickets.leases import Leases
from ..tickets.ledger import CODES
from ..tickets.planned_mixture import PlannedMixture
from ..tickets.store import Store
from .curriculum_control import CurriculumControl
from .eta_control import EtaControl, HeldTime
from .membership import Membership
from .pulls import Pullers
from .settings import RunSettings
from .validation import Validation

# metric of a batch: seconds that the learner waited for it while only eta kept work from an actor, or the batch from it
HELD_S = "buffer/held_s"
_STORED, _BATCHED = CODES[TicketState.stored], CODES[TicketState.batched]


class RunState:
    """Tickets, leases, validation sweeps, weights held by actors, and the journal of all but the last."""

    def __init__(self, settings: RunSettings, prompts: PromptSource, heldout: list[Prompt], journal: Journal) -> None:
        """A run that nothing happened in yet; `open` also reads the journal."""
        self.journal = journal
        self.counters = Counters()
        self.store = Store(
            settings.buffer,
            settings.stages,
            prompts,
            self.counters,
            seed=settings.seed,
            steps=settings.steps,
            model_ids=settings.model_ids,
        )
        self.validation = Validation(
            settings.validation,
            heldout,
            settings.seed,
            settings.buffer.lease_s,
            self.counters,
            model_ids=settings.model_ids,
        )
        resync_interval_s = 2 * settings.buffer.heartbeat_s
        self.membership = Membership(timeout_s=settings.weights_timeout_s, resync_interval_s=resync_interval_s)
        self.pullers = Pullers(timeout_s=settings.weights_timeout_s, resync_interval_s=resync_interval_s)
        rules = adaptive_config(settings.buffer)
        # None: eta stays
        self.eta = None if rules is None else EtaControl(rules, settings.buffer.eta)
        # None: prompts are drawn alike
        self.curriculum = CurriculumControl(prompts, journal) if isinstance(prompts, PlannedMixture) else None
        self.held = HeldTime()
        self.leases = Leases()
        self.forecast = Forecast()
        self.handovers = Handovers()
        # versions of the checkpoints that the learner retains, ascending
        self.checkpoints: list[int] = []
        # of the newest commit that is durable, and of the newest that was written
        self.durable_generation = self._written_generation = 0
        # of training and validation tickets alike
        self.next_ordinal = 0

    @classmethod
    def open(
        cls, settings: RunSettings, prompts: PromptSource, heldout: list[Prompt], journal: Journal, now: float
    ) -> RunState:
        """The run that `journal` describes, or a new one.

        Raises: JournalError; LedgerError for records that do not add up; DataError for a configuration that lacks the stage
        or the prompt sources of the record.
        """
        run = cls(settings, prompts, heldout, journal)
        state = journal.load_state()
        if state is not None:
            run._restore(state, now, rejoin_grace_s=settings.buffer.silence_s)
        return run

    def take_ordinal(self) -> int:
        """The ordinal of the ticket that is issued now."""
        ordinal = self.next_ordinal
        self.next_ordinal += 1
        return ordinal

    def count_lost(self, tickets: Iterable[Ticket]) -> None:
        """Count the tokens of tickets that were handed over, and will not be trained."""
        self.counters.count("buffer/lost_tokens", sum(ticket.num_started_tokens for ticket in tickets))

    def _end_handovers(self, *, training_only: bool = False) -> None:
        for waiting in self.handovers.all():
            if waiting.ticket.kind is TicketKind.train or not training_only:
                self.count_lost([self.handovers.take(waiting.ticket.ordinal).ticket])

    def version_of(self, actor: str) -> int | None:
        """The version of this generation that an actor holds and may generate with, or None."""
        generation = self.store.generation
        pulled = self.pullers.version_of(actor, generation)
        return self.membership.version_of(actor, generation) if pulled is None else pulled

    def lag_of(self, actor: str) -> int | None:
        """How many versions an actor is behind the learner, or None for one that may not generate."""
        version = self.version_of(actor)
        return None if version is None else self.store.version - version

    # --- what a learner's messages change ---------------------------------------------------------

    def admit_learner(self, version: int, generation: int, stage: int) -> None:
        """A learner starts from `version` and in `stage`: it continues the recorded history, or begins a generation.

        `generation` is that of its checkpoint, below 1 without one. Raises DataError, JournalError.
        """
        if self.store.can_continue(version, generation, set(self.journal.versions())):
            self.store.continue_at(version, stage)
        else:
            self._begin_generation(version, generation, stage)
        if version == 0 and self.store.head == 0:
            self.validation.start_whole(0, blocks=True)

    def _begin_generation(self, version: int, generation: int, stage: int) -> None:
        """Give up the recorded history from `version` on, with all work under way."""
        state = self.journal.load_state(version)
        if state is not None and state.generation != generation:
            state = None  # of a history that was given up already
        self.store.begin_generation(version, generation, stage, state)
        self._restore_eta(None if state is None else state.eta, version)
        self.collect()
        self.journal.forget_from(version)
        self.count_lost(lease.ticket for lease in self.leases.all())
        self.leases.clear()
        self.forecast.forget_work()
        self._end_handovers()
        reported = 0 if state is None else state.reported
        self.validation.rewind(version if generation > 0 else -1, reported)
        self.checkpoints = [saved for saved in self.checkpoints if saved <= version]

    def adapt(self, version: int, said: StepEvidence) -> None:
        """Decide about eta with what the learner says of the step that made `version`. Raises JournalError."""
        if self.eta is None:
            return
        held_s = self.journal.batch_record(version - 1).metrics.get(HELD_S, 0.0)
        record = self.eta.hear(version, said, held_s)
        if record is not None:
            self.journal.log_eta(record)
            self.store.contract.move(record.eta)

    def maybe_plan(self, version: int) -> None:
        """Order the prompts anew if a plan is due at the version that the learner made."""
        control, generation = self.curriculum, self.store.generation
        if control is not None and control.is_due(version, generation):
            self.store.look_ahead.begin_anew(lambda: control.plan(version, generation, self.validation.scores))

    def _restore_eta(self, state: r.EtaState | None, version: int) -> None:
        if self.eta is not None:
            self.eta.restore(state, version)
            self.store.contract.move(self.eta.state.eta)

    def end_at(self, version: int) -> None:
        """The learner made its last version: untrained tickets become stale, a batch that was not used is forgotten."""
        self.count_lost(lease.ticket for lease in self.leases.all() if lease.ticket.kind is TicketKind.train)
        self.leases.end_training_leases()
        self._end_handovers(training_only=True)
        handed_out = self.store.head
        self.store.mark_untrained_stale()
        if handed_out > version:
            self.collect()
            self.journal.forget_from(version)

    def checkpoint_saved(self, version: int, keep: int) -> None:
        """A checkpoint is durable: batches before the oldest of the `keep` that are retained are forgotten."""
        self.checkpoints = sorted({*self.checkpoints, version})[-keep:]
        self.save_state_of_checkpoint(version)
        self.journal.forget_before(self.checkpoints[0])

    def save_state_of_checkpoint(self, version: int) -> None:
        """Record the state that belongs to the checkpoint of `version`, unless it is recorded."""
        self.journal.save_state(version, self.state(of_checkpoint=True))

    # --- out --------------------------------------------------------------------------------------

    def collect(self) -> None:
        """Add what changed since the last call to the journal's pending changes."""
        journal, ledger = self.journal, self.store.ledger
        changes = ledger.take_changes()
        if changes.moves:
            journal.add_moves(changes.moves)
        for group, frame in changes.stored.values():
            journal.put_group(group, frame)
        for move in changes.moves:
            if move.from_state == _STORED and move.to_state != _BATCHED:
                journal.drop(r.key(r.GROUP, move.ordinal))
        for ordinal in changes.touched | dict.fromkeys([*self.leases.take_changes(), *self.handovers.take_changes()]):
            self._collect_ticket(ordinal)
        came, went = self.store.retries.take_changes()
        for number, retry in came.items():
            journal.put(r.key(r.RETRY, number), retry)
        for number in went:
            journal.drop(r.key(r.RETRY, number))
        if self.curriculum is not None:
            self.curriculum.flush()
        if self.validation.take_changed():
            journal.put(r.SWEEPS, self.validation.records())
            journal.put(r.SCORES, self.validation.scores)

    def _collect_ticket(self, ordinal: int) -> None:
        """A ticket has a record while it is leased or waits for another actor, or its group is stored."""
        lease, entry = self.leases.find(ordinal), self.store.ledger.find(ordinal)
        waiting = self.handovers.find(ordinal)
        attempt = 0 if entry is None else entry.attempt
        if lease is not None:
            record = r.TicketRecord(ticket=lease.ticket, attempt=attempt, actor=lease.actor)
            self.journal.put(r.key(r.TICKET, ordinal), record)
        elif waiting is not None:
            record = r.TicketRecord(ticket=waiting.ticket, attempt=attempt, actor="", waits=True)
            self.journal.put(r.key(r.TICKET, ordinal), record)
        elif entry is None:
            self.journal.drop(r.key(r.TICKET, ordinal))

    def commit(self) -> Future[None] | None:
        """Make durable what happened so far: see `Journal.commit`. Raises JournalFull, JournalError."""
        written = self.journal.commit(self.state())
        self.durable_generation = self.store.generation if written is None else self._written_generation
        self._written_generation = self.store.generation
        return written

    def state(self, *, of_checkpoint: bool = False) -> r.BufferState:
        """The state as of now. `of_checkpoint`: with the prompts that a generation which begins there must issue again."""
        self.collect()
        store = self.store
        entries = store.ledger.entries() if of_checkpoint else []
        return r.BufferState(
            generation=store.generation,
            version=store.version,
            head=store.head,
            epoch=self.membership.epoch,
            ledger={state.value: count for state, count in store.ledger.counts.items()},
            num_moves=self.journal.num_moves,
            next_ordinal=self.next_ordinal,
            cursor=store.look_ahead.cursor,
            retries=[(prompt.uid, attempt) for prompt, attempt in store.retries] if of_checkpoint else [],
            skips=store.look_ahead.skips,
            under_way=[(entry.ticket.prompt.uid, entry.attempt) for entry in entries],
            filtered=store.filter.dropped,
            reported=self.validation.reported,
            checkpoints=list(self.checkpoints),
            stage=store.stage,
            reset_requested=store.reset_requested,
            counters=dict(self.counters.total),
            eta=None if self.eta is None else self.eta.state,
        )

    # --- in ---------------------------------------------------------------------------------------

    def _restore(self, state: r.BufferState, now: float, rejoin_grace_s: float) -> None:
        """Become what a buffer that died had recorded; its actors may greet for `rejoin_grace_s`."""
        tickets = self.journal.tickets()
        training = [record for record in tickets if record.ticket.kind is TicketKind.train]
        if self.curriculum is not None:
            self.curriculum.restore()
        self.store.restore(state, training, self._stored_groups(training), self.journal.retries())
        self._restore_eta(state.eta, state.version)
        self.validation.restore(self.journal.sweeps(), self.journal.scores(), state.reported)
        self.membership.restore(state.epoch)
        self.next_ordinal = state.next_ordinal
        under_way = [record for record in tickets if self._is_under_way(record)]
        self.leases.restore([record for record in under_way if not record.waits], now, rejoin_grace_s)
        self.handovers.restore([record.ticket for record in under_way if record.waits], now)
        self.checkpoints = list(state.checkpoints)
        self.durable_generation = self._written_generation = state.generation

    def _stored_groups(self, training: Sequence[r.TicketRecord]) -> dict[int, Group]:
        stored = set(self.journal.groups())
        ordinals = [record.ticket.ordinal for record in training if record.ticket.ordinal in stored]
        return {ordinal: self.journal.group(ordinal) for ordinal in ordinals}

    def _is_under_way(self, record: r.TicketRecord) -> bool:
        """Whether an actor works on a recorded ticket, or will; else its group is stored, or its sweep is over."""
        entry = self.store.ledger.find(record.ticket.ordinal)
        if entry is None:
            return self.validation.expects(record.ticket.ordinal)
        return entry.state is not TicketState.stored

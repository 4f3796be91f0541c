"""The buffer's protocol, without a socket, a clock or a thread: messages and times in, messages out.

    handle(peer, message, now)   one message: change the state, answer directly
    tick(now)                    what time or the messages since made possible: lost leases, the batch, tickets, weights, the end

Called from one place (`service.py`), or from a simulator that shows the contract to hold over any schedule.
Training tickets live in `Store`, validation in `Validation`, weights in `Membership`, leases in `Dispatch`; here they meet the peers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from ..common import messages as m
from ..common.config import Config
from ..common.types import Batch, Prompt
from . import timeline
from .counters import Counters
from .dispatch import Dispatch
from .journal import BatchLog, BufferState
from .membership import Membership
from .peers import Peer, Peers, refusal
from .prompts import PromptMixture
from .status import describe
from .store import Store
from .validation import Validation

Outgoing = tuple[bytes, m.FromBuffer]  # (peer identity, message)
FAREWELL_S = 5.0  # how long the buffer stays after the last word


class BufferCore:
    """One run's buffer."""

    def __init__(self, cfg: Config, mixture: PromptMixture, heldout: list[Prompt], tokenizer: str, journal: BatchLog) -> None:
        """`tokenizer`: fingerprint that actors and learner must share. State is loaded from `journal` when a learner comes."""
        self._cfg, self._tokenizer, self._journal = cfg, tokenizer, journal
        self.counters = Counters()
        self.peers = Peers()
        self.store = Store(cfg, mixture, journal, self.counters)
        self.validation = Validation(cfg.validation, heldout, cfg.run.seed, cfg.buffer.lease_s, self.counters)
        self.membership = Membership(timeout_s=cfg.weights.timeout_s, patience_s=2 * cfg.buffer.heartbeat_s)
        self.dispatch = Dispatch(self.store, self.validation, self.membership, self.counters)
        self._checkpoints: list[int] = []  # versions that the learner retains, ascending
        self._waiting: int | None = None  # version of the batch that the learner waits for
        self._finishing = False  # the learner made its last version
        self._leave_at_s: float | None = None  # set with the last word
        self._gone = False
        self._actor_handlers: dict[type, Callable[[Peer, Any], list[Outgoing]]] = {
            m.GroupResult: self._on_group,
            m.TicketReturned: self._on_returned,
            m.WeightsApplied: self._on_applied,
        }
        self._learner_handlers: dict[type, Callable[[Peer, Any, float], list[Outgoing]]] = {
            m.TakeBatch: self._on_take,
            m.StepDone: self._on_step,
            m.CheckpointSaved: self._on_checkpoint,
            m.Publish: self._on_publish,
            m.Finish: self._on_finish,
        }

    # --- what the service calls ---------------------------------------------------------------------------------------

    def handle(self, peer: bytes, message: m.FromClient, now: float) -> list[Outgoing]:
        """One message of one client. Raises LedgerError when the ledger does not balance afterwards, JournalError."""
        if isinstance(message, m.StatusRequest):
            return [(peer, self.status(now))]
        if isinstance(message, m.Hello):
            out = self._on_hello(peer, message, now)
        else:
            speaker = self.peers.find(peer)
            if speaker is None:
                return [(peer, m.Alive(known=False))]
            speaker.seen_s = now
            out = self._route(speaker, message, now)
        self.store.check()
        return out

    def _route(self, peer: Peer, message: Any, now: float) -> list[Outgoing]:
        """To the handler of the message, if it comes from the role that may send it and from the generation that lives."""
        kind = type(message)
        if kind is m.Heartbeat:
            peer.stats = message.stats or peer.stats
            return [(peer.identity, m.Alive(known=True))]
        if peer.role is m.Role.actor and kind in self._actor_handlers:
            return self._actor_handlers[kind](peer, message)
        if peer.role is m.Role.learner and kind is m.Cordon:
            return self._on_cordon(message)
        if peer.role is not m.Role.learner or kind not in self._learner_handlers:
            self.count("buffer/misplaced_messages")
            return []
        if message.generation != self.store.generation:
            self.count("buffer/dead_generation")
            return []
        return self._learner_handlers[kind](peer, message, now)

    def tick(self, now: float) -> list[Outgoing]:
        """Everything that became possible or due by `now`. Raises LedgerError, StalenessViolation, JournalError."""
        self.dispatch.expire(now)
        for peer in self.peers.silent(now, self._cfg.buffer.silence_s):
            self._drop(peer)
        out = self._finish_publish(now) + self._serve_batch()
        given = self.dispatch.issue(self.peers.actors(), now, training=not self._finishing)
        out += [(peer.identity, tickets) for peer, tickets in given]
        out += self._ask_for_weights(now) + self._finish(now)
        self.store.check()
        return out

    def finished(self) -> bool:
        """Everything is said, and the peers have left or had time to."""
        return self._gone

    def stop(self, reason: str, *, failed: bool) -> list[Outgoing]:
        """Tell everybody that the run is over, or cannot go on."""
        return [(peer.identity, m.Stop(reason=reason, failed=failed)) for peer in self.peers.all()]

    def count(self, name: str, amount: int = 1) -> None:
        """Count something that was dropped or refused, by the service too: "buffer/rejected_frames"."""
        self.counters.count(name, amount)

    def status(self, now: float) -> m.Status:
        """Everything that `prolong status` prints."""
        generation = self.store.generation
        return m.Status(
            run=self._cfg.run.name,
            generation=generation,
            version=self.store.version,
            steps=self._cfg.run.steps,
            ledger=self.store.ledger.as_dict(),
            balanced=self.store.ledger.balanced,
            peers={p.name: describe(p, now, generation, self.membership, self.dispatch) for p in self.peers.all()},
            counters=dict(self.counters.total),
            validation=list(self.validation.scores),
        )

    # --- coming and going ---------------------------------------------------------------------------------------------

    def _on_hello(self, identity: bytes, hello: m.Hello, now: float) -> list[Outgoing]:
        for peer in self.peers.silent(now, self._cfg.buffer.silence_s):
            self._drop(peer)
        refused = refusal(hello, self.peers, self._tokenizer)
        if refused is not None:
            self.count("buffer/refused")
            return [(identity, refused)]
        namesake = self.peers.named(hello.name)
        # an actor that says it holds no weights is another one, though a container gave it the same process id
        same = namesake is not None and namesake.is_process(hello) and (hello.role is not m.Role.actor or hello.version >= 0)
        if namesake is not None and not same:
            self._drop(namesake)
        if hello.role is m.Role.learner:
            self._on_learner(hello, now)
        elif hello.role is m.Role.actor and not same:
            self.membership.join(hello.name)
        self.peers.join(identity, hello, now)
        welcome = m.Welcome(
            generation=self.store.generation,
            heartbeat_s=self._cfg.buffer.heartbeat_s,
            lease_s=self._cfg.buffer.silence_s,
            version=self.store.version if self.store.generation > 0 else -1,
        )
        return [(identity, welcome)]

    def _on_learner(self, hello: m.Hello, now: float) -> None:
        """A learner continues the history, or begins a generation."""
        version = max(hello.version, 0)
        state = self._journal.load_state() if self.store.generation == 0 else None
        if state is not None:
            timeline.restore(self.store, state)
            self.validation.restore(state.validation)
            self.membership.epoch = state.epoch
            self.dispatch.next_ordinal = state.next_ordinal + timeline.RESTART_GAP
            self._checkpoints = list(state.checkpoints)
        if timeline.continues(self.store, version, hello.generation):
            timeline.rewind(self.store, version)
        else:
            timeline.fork(self.store, version, hello.generation)
            self.dispatch.leases.clear()
            self.validation.rewind(version if hello.generation > 0 else -1)
            self._checkpoints = [saved for saved in self._checkpoints if saved <= version]
        self.membership.learner_joined(now)
        self._waiting, self._finishing = None, False
        if version == 0 and self.store.head == 0:
            self.validation.start_whole(0, blocks=True)
        self._journal.save_newest(self._state())

    def _state(self) -> BufferState:
        return timeline.record(
            self.store,
            epoch=self.membership.epoch,
            next_ordinal=self.dispatch.next_ordinal,
            validation=list(self.validation.scores),
            checkpoints=list(self._checkpoints),
        )

    def _drop(self, peer: Peer) -> None:
        """A client is gone: its tickets are lost."""
        self.peers.leave(peer)
        if peer.role is m.Role.actor:
            self.count("buffer/lost_actors")
            self.membership.leave(peer.name)
            self.dispatch.abandon(peer.name)
        elif peer.role is m.Role.learner:
            self._waiting = None

    # --- actors -------------------------------------------------------------------------------------------------------

    def _on_group(self, peer: Peer, message: m.GroupResult) -> list[Outgoing]:
        return [(peer.identity, self.dispatch.result(peer, message))]

    def _on_returned(self, peer: Peer, message: m.TicketReturned) -> list[Outgoing]:
        self.dispatch.returned(peer, message.ordinal)
        return []

    def _on_applied(self, peer: Peer, message: m.WeightsApplied) -> list[Outgoing]:
        self.membership.applied(peer.name, message)
        return []

    # --- batches ------------------------------------------------------------------------------------------------------

    def _on_take(self, peer: Peer, message: m.TakeBatch, now: float) -> list[Outgoing]:
        self._advance(message.version)
        if message.version != self.store.version:
            self.count("buffer/misplaced_messages")
            return []
        self._waiting = message.version
        return self._serve_batch()

    def _serve_batch(self) -> list[Outgoing]:
        """Answer the learner's wait, if the contract allows: a recorded batch again, or the one that is formed now."""
        learner = self.peers.learner
        if self._waiting is None or learner is None:
            return []
        batch = self._journal.batch(self._waiting) if self._waiting < self.store.head else self._form_batch()
        if batch is None:
            return []
        self._waiting = None
        return [(learner.identity, m.BatchReady(batch=batch))]

    def _form_batch(self) -> Batch | None:
        """The next batch, logged before anybody sees it."""
        batch = self.store.try_take()
        if batch is None:
            return None
        metrics = batch.metrics | self.peers.actor_metrics() | self.counters.next_step()
        batch = msgspec.structs.replace(batch, metrics=metrics, validation=self.validation.take_unreported())
        self._journal.log_batch(batch, self._state())
        return batch

    def _advance(self, version: int) -> None:
        """The learner says that it made `version`: news only if that is the step of the batch that it has."""
        if version == self.store.version + 1 and version <= self.store.head:
            self.store.step_done()
            if version < self._cfg.run.steps:
                self.validation.maybe_start_between(version)

    def _on_step(self, peer: Peer, message: m.StepDone, now: float) -> list[Outgoing]:
        self._advance(message.version)
        return []

    def _on_checkpoint(self, peer: Peer, message: m.CheckpointSaved, now: float) -> list[Outgoing]:
        self._checkpoints = sorted({*self._checkpoints, message.version})[-self._cfg.checkpoint.keep :]
        self._journal.save_state(message.version, self._state())
        self._journal.forget_before(self._checkpoints[0])
        return []

    # --- weights ------------------------------------------------------------------------------------------------------

    def _on_publish(self, peer: Peer, message: m.Publish, now: float) -> list[Outgoing]:
        epoch = self.membership.epoch
        plan, updates = self.membership.publish(message, now)
        if self.membership.epoch != epoch:
            self._journal.save_newest(self._state())  # an epoch is never used twice with the same store
        identity_of = {actor.name: actor.identity for actor in self.peers.actors()}
        return [(peer.identity, plan), *((identity_of[name], update) for name, update in updates.items())]

    def _finish_publish(self, now: float) -> list[Outgoing]:
        result, learner = self.membership.try_finish(now), self.peers.learner
        if result is None or learner is None:
            return []
        self.count("buffer/failed_publishes", len(result.failed))
        return [(learner.identity, result)]

    def _on_cordon(self, message: m.Cordon) -> list[Outgoing]:
        for name in self.membership.cordon(message.names):
            self.count("buffer/cordoned")
            self.dispatch.abandon(name)
        return []

    def _ask_for_weights(self, now: float) -> list[Outgoing]:
        learner = self.peers.learner
        reason = "" if learner is None else self.membership.should_ask(self.store.generation, now)
        return [(learner.identity, m.SyncRequested(reason=reason))] if learner is not None and reason else []

    # --- the end ------------------------------------------------------------------------------------------------------

    def _on_finish(self, peer: Peer, message: m.Finish, now: float) -> list[Outgoing]:
        if not self._finishing:
            self._finishing = True
            self._advance(message.version)
            self.validation.start_whole(message.version, blocks=False)
        return []

    def _finish(self, now: float) -> list[Outgoing]:
        """Once the last sweep is in: the last word to everybody, then leave when they have left."""
        if self._leave_at_s is not None:
            silent = self.peers.silent(now, 4 * self._cfg.buffer.heartbeat_s)
            self._gone = now >= self._leave_at_s or len(silent) == len(self.peers.all())
            return []
        learner = self.peers.learner
        if not self._finishing or not self.validation.idle or learner is None:
            return []
        self._leave_at_s = now + FAREWELL_S
        stops = [(actor.identity, m.Stop(reason="the run is over")) for actor in self.peers.actors()]
        return [(learner.identity, m.Finished(status=self.status(now))), *stops]

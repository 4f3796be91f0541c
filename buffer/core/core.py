"""The buffer's protocol, without a socket, a clock or a thread: messages and times in, messages out.

    handle(peer, message, now)   one message: change the state, answer directly
    tick(now)                    what became due or possible since: lost leases, the batch, tickets, weights, the end
    commit()                     make it durable: only now may anybody hear of it

Called from one place (`service.py`), or from a simulator that shows the contract to hold over any schedule.
`Store` holds the training tickets, `Validation` the sweeps, `Membership` who has which weights, `Dispatch` the leases;
here they meet the peers.
"""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

from ...common import messages as m
from ...common.config.sections import Config
from ...common.config.stages import total_steps
from ...common.transport.quarantine import Quarantine
from ...common.types import Prompt
from ..journal.journal import Journal
from ..tickets.counters import Counters
from ..tickets.mixture import PromptMixture
from ..tickets.store import Store
from .dispatch import Dispatch
from .journal_writer import JournalWriter
from .learner_progress import LearnerProgress
from .membership import Membership
from .peers import Peer, Peers, refusal
from .status import describe, describe_quarantined
from .validation import Validation

Outgoing = tuple[bytes, m.FromBuffer]  # (peer identity, message)
FAREWELL_S = 5.0  # how long the buffer stays after the last word


class BufferCore:
    """One run's buffer."""

    def __init__(
        self, cfg: Config, mixture: PromptMixture, heldout: list[Prompt], tokenizer: str, journal: Journal, now: float = 0.0
    ) -> None:
        """`tokenizer`: fingerprint that actors and learner must share. Goes on where `journal` says that a dead buffer was.

        Raises: JournalError, LedgerError, DataError for records that do not fit.
        """
        self._cfg, self._tokenizer = cfg, tokenizer
        self.counters = Counters()
        self.quarantine = Quarantine()  # filled by the service, told of in the status
        self.peers = Peers()
        self.store = Store(cfg, mixture, self.counters)
        self.validation = Validation(cfg.validation, heldout, cfg.run.seed, cfg.buffer.lease_s, self.counters)
        self.membership = Membership(timeout_s=cfg.weights.timeout_s, resync_interval_s=2 * cfg.buffer.heartbeat_s)
        self.dispatch = Dispatch(self.store, self.validation, self.membership, self.counters)
        self.writer = JournalWriter(journal, self.store, self.validation, self.membership, self.dispatch)
        self.writer.restore(now, rejoin_grace_s=cfg.buffer.silence_s)
        self.progress = LearnerProgress(cfg, self.writer, self.store, self.validation, self.dispatch)
        self._finishing = False  # the learner made its last version
        self._leave_at_s: float | None = None  # set with the last word
        self._gone = False

    # --- what the service calls ---------------------------------------------------------------------------------------

    def handle(self, peer: bytes, message: m.FromClient, now: float, frame: bytes = b"") -> list[Outgoing]:
        """One message of one client, and the frame that it came in. Raises LedgerError unless it balances then."""
        if isinstance(message, m.StatusRequest):
            return [(peer, self.status(now))]
        if isinstance(message, m.RequestReset):
            return [(peer, self._request_reset())]
        if isinstance(message, m.Hello):
            out = self._on_hello(peer, message, now)
        else:
            speaker = self.peers.find(peer)
            if speaker is None:
                return [(peer, m.Alive(known=False))]
            speaker.seen_s = now
            out = self._route(speaker, message, now, frame)
        self.store.check()
        return out

    def _route(self, peer: Peer, message: Any, now: float, frame: bytes) -> list[Outgoing]:
        """To the side that the peer is on; what no side understands is counted."""
        if isinstance(message, m.Heartbeat):
            peer.stats = message.stats or peer.stats
            return [(peer.identity, m.Alive(known=True))]
        if peer.role is m.Role.actor:
            return self._on_actor(peer, message, frame)
        if peer.role is m.Role.learner:
            return self._on_learner(peer, message, now)
        self.count("buffer/misplaced_messages")
        return []

    def _on_actor(self, peer: Peer, message: Any, frame: bytes) -> list[Outgoing]:
        match message:
            case m.GroupResult():
                return [(peer.identity, self.dispatch.result(peer, message, frame))]
            case m.TicketReturned():
                self.dispatch.returned(peer, message.ordinal)
            case m.WeightsApplied():
                self.membership.applied(peer.name, message)
            case m.Leave():
                peer.leaving = True
                self.membership.leave(peer.name)
            case _:
                self.count("buffer/misplaced_messages")
        return []

    def _on_learner(self, peer: Peer, message: Any, now: float) -> list[Outgoing]:
        if isinstance(message, m.Cordon):
            self._cordon(message.names)
            return []
        if getattr(message, "generation", None) != self.store.generation:
            self.count("buffer/dead_generation")
            return []
        match message:
            case m.TakeBatch():
                return self._take(message.version)
            case m.StepDone():
                self.progress.advance(message.version, message.stage)
            case m.CheckpointSaved():
                if not self.progress.checkpoint(message.version):
                    self.count("buffer/misplaced_messages")
            case m.Publish():
                return self._publish(peer, message, now)
            case m.Finish():
                self._last_version(message.version)
            case _:
                self.count("buffer/misplaced_messages")
        return []

    def tick(self, now: float) -> list[Outgoing]:
        """Everything that became possible or due by `now`. Raises LedgerError, StalenessViolation."""
        self.dispatch.expire(now)
        for peer in self.peers.silent(now, self._cfg.buffer.silence_s):
            self._drop(peer)
        out = self._finish_publish(now) + self._serve_batch()
        given = self.dispatch.issue(self.peers.workers(), now, training=not self._finishing)
        out += [(peer.identity, tickets) for peer, tickets in given]
        out += self._ask_for_weights(now) + self._finish(now)
        self.store.check()
        return out

    def commit(self) -> Future[None] | None:
        """Make everything durable that happened so far: see `Journal.commit`. Raises JournalFull, JournalError."""
        return self.writer.commit()

    def may_leave(self, message: m.FromBuffer) -> bool:
        """Whether a message tells of nothing that is not durable yet."""
        if isinstance(message, m.Welcome):
            return message.generation == self.writer.durable_generation
        return isinstance(message, (m.Alive, m.Status, m.Refused, m.Stop))

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
        peers = {p.name: describe(p, now, generation, self.membership, self.dispatch) for p in self.peers.all()}
        describe_quarantined(self.quarantine.held(now), self.peers, peers)
        return m.Status(
            run=self._cfg.run.name,
            generation=generation,
            version=self.store.version,
            steps=total_steps(self._cfg),
            ledger=self.store.ledger.as_dict(),
            balanced=self.store.ledger.balanced,
            peers=peers,
            counters=dict(self.counters.total),
            validation=list(self.validation.scores),
        )

    # --- coming and going ---------------------------------------------------------------------------------------------

    def _on_hello(self, identity: bytes, hello: m.Hello, now: float) -> list[Outgoing]:
        for peer in self.peers.silent(now, self._cfg.buffer.silence_s):
            self._drop(peer)
        refused = refusal(hello, self.peers, self._tokenizer, len(self.store.stages))
        if refused is not None:
            self.count("buffer/refused")
            return [(identity, refused)]
        speaker, namesake = self.peers.find(identity), self.peers.named(hello.name)
        if speaker is not None and speaker is not namesake:
            self._drop(speaker)
        # an actor that says it holds no weights is another one, though a container gave it the same process id
        same = namesake is not None and namesake.is_process(hello) and (hello.role is not m.Role.actor or hello.version >= 0)
        if namesake is not None and not same:
            self._drop(namesake)
        if hello.role is m.Role.learner:
            self.progress.arrive(hello)
            if not same:
                self.membership.learner_joined(now)
            # the last word may have been lost with its connection: it is said again, or waited for
            self._finishing = self._finishing and same and hello.version == self.store.version
            self._leave_at_s = None
        elif hello.role is m.Role.actor and not same:
            self.membership.join(hello.name)
            same = self.dispatch.reclaim_leases(hello.name, holds_weights=hello.version >= 0)
        self.peers.join(identity, hello, now)
        welcome = m.Welcome(
            generation=self.store.generation,
            heartbeat_s=self._cfg.buffer.heartbeat_s,
            lease_s=self._cfg.buffer.silence_s,
            version=self.store.version if self.store.generation > 0 else -1,
        )
        tickets = self.dispatch.held_by(hello.name) if same and hello.role is m.Role.actor else []
        # a broken connection may have swallowed them; an actor knows which it has
        return [(identity, welcome), *[(identity, m.Tickets(tickets=tickets))] * bool(tickets)]

    def _drop(self, peer: Peer) -> None:
        """A client is gone: its tickets are lost."""
        self.peers.leave(peer)
        if peer.role is m.Role.actor:
            self.count("buffer/left_actors" if peer.leaving else "buffer/lost_actors")
            self.membership.leave(peer.name)
            self.dispatch.fail_leases_of(peer.name)
        elif peer.role is m.Role.learner:
            self.progress.leave()

    # --- batches ------------------------------------------------------------------------------------------------------

    def _take(self, version: int) -> list[Outgoing]:
        if not self.progress.take(version):
            self.count("buffer/misplaced_messages")
        return self._serve_batch()

    def _serve_batch(self) -> list[Outgoing]:
        learner = self.peers.learner
        batch = None if learner is None else self.progress.try_serve(self.peers)
        return [] if learner is None or batch is None else [(learner.identity, m.BatchReady(batch=batch))]

    def _request_reset(self) -> m.ResetNoted | m.Refused:
        version = None if self._finishing else self.progress.request_reset()
        if version is None:
            return m.Refused(reason="the run has ended, or its last batch is formed: nothing would be reset")
        return m.ResetNoted(version=version)

    # --- weights ------------------------------------------------------------------------------------------------------

    def _publish(self, peer: Peer, message: m.Publish, now: float) -> list[Outgoing]:
        plan, updates = self.membership.publish(message, now)
        identity_of = {actor.name: actor.identity for actor in self.peers.actors()}
        return [(peer.identity, plan), *((identity_of[name], update) for name, update in updates.items())]

    def _finish_publish(self, now: float) -> list[Outgoing]:
        result, learner = self.membership.try_finish(now), self.peers.learner
        if result is None or learner is None:
            return []
        self.count("buffer/failed_publishes", len(result.failed))
        return [(learner.identity, result)]

    def _cordon(self, names: list[str]) -> None:
        """These actors hold other weights than were sent: what they made with them is not to be trusted."""
        for name, version in self.membership.cordon(names).items():
            self.count("buffer/cordoned")
            self.dispatch.fail_leases_of(name)
            self.store.distrust(name, version)

    def _ask_for_weights(self, now: float) -> list[Outgoing]:
        learner = self.peers.learner
        # somebody waits for what only the newest weights can bring
        version = self.store.version if self.progress.waits or self._finishing else -1
        reason = "" if learner is None else self.membership.should_ask(self.store.generation, version, now)
        return [(learner.identity, m.SyncRequested(reason=reason))] if learner is not None and reason else []

    # --- the end ------------------------------------------------------------------------------------------------------

    def _last_version(self, version: int) -> None:
        if self._finishing:
            return
        self._finishing = self.progress.finish(version)
        if not self._finishing:
            self.count("buffer/misplaced_messages")

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

"""The buffer's protocol, without a socket, a clock or a thread: messages and times in, messages out.

    handle(peer, message, now)   one message: change the state, answer directly
    tick(now)                    do what became due or possible since: lost leases, the batch, tickets, weights, the end
    commit()                     make it durable; messages that follow from it may be sent only then

`serving/service.py` calls it over a socket, and the simulator of the tests over any schedule. `RunState` owns the state of the
run, `Dispatch` is the actors' side of it, `LearnerProgress` the learner's and `WeightsPlane` that of the weights; here they
meet the connected clients.
"""

from __future__ import annotations

from concurrent.futures import Future
from typing import assert_never

from ...common import messages as m
from ...common.transport.quarantine import Quarantine
from ...common.types import Prompt, Ticket
from ..journal.journal import Journal
from ..tickets.api import PromptSource
from .dispatch import Dispatch, in_messages
from .learner_progress import LearnerProgress
from .peers import Outgoing, Peer, Peers, refuse_hello
from .run_state import RunState
from .settings import RunSettings
from .status import make_status
from .stragglers import Stragglers
from .weights_plane import WeightsPlane

# how long the buffer stays after the last word
FAREWELL_S = 5.0
# of all clients together: over its socket each costs the buffer about 50 microseconds (`prolong bench heartbeats`)
MAX_HEARTBEATS_PER_S = 2_000.0


class BufferCore:
    """One run's buffer."""

    def __init__(self, settings: RunSettings, run: RunState, tokenizer: str) -> None:
        """`tokenizer`: fingerprint that actors and learner must share."""
        self._settings, self._tokenizer = settings, tokenizer
        self.run = run
        # the service fills it, the status shows it
        self.quarantine = Quarantine()
        self.peers = Peers()
        buffer = settings.buffer
        self.dispatch = Dispatch(run, self.peers, buffer.dispatch, buffer.silence_s, buffer.max_message_mb << 20)
        self.stragglers = Stragglers(run, self.peers)
        self.weights = WeightsPlane(run, self.peers, self.dispatch)
        self.progress = LearnerProgress(run, settings.checkpoint, settings.steps)
        # the learner made its last version
        self.finishing = False
        # set with the last word
        self._leave_at_s: float | None = None
        self._gone = False

    @classmethod
    def open(
        cls,
        settings: RunSettings,
        prompts: PromptSource,
        heldout: list[Prompt],
        tokenizer: str,
        journal: Journal,
        now: float = 0.0,
    ) -> BufferCore:
        """Go on with the run that `journal` describes, or begin one. Raises as `RunState.open`."""
        return cls(settings, RunState.open(settings, prompts, heldout, journal, now), tokenizer)

    # --- what the service calls -------------------------------------------------------------------

    def handle(self, peer: bytes, message: m.FromClient, now: float, frame: bytes = b"") -> list[Outgoing]:
        """Handle one message of one client. Raises LedgerError unless the ledger balances then.

        `frame` is what the message came in, for the journal.
        """
        match message:
            case m.StatusRequest():
                return [(peer, self.status(now))]
            case m.RequestReset():
                return [(peer, self._request_reset())]
            case m.Hello():
                out = self._on_hello(peer, message, now)
            case _:
                speaker = self.peers.find(peer)
                if speaker is None:
                    return [(peer, m.Alive(known=False))]
                self.peers.heard(speaker, now)
                out = self._route(speaker, message, now, frame)
        self.run.store.check()
        return out

    def _route(
        self, peer: Peer, message: m.Heartbeat | m.FromActor | m.FromLearner, now: float, frame: bytes
    ) -> list[Outgoing]:
        """Handle a message of a known client; one that its role may not send is counted."""
        if peer.role not in message.senders:
            self.count("buffer/misplaced_messages")
            return []
        self.dispatch.touch(peer.name)
        if isinstance(message, m.Heartbeat):
            peer.heard_stats(message.stats)
            peer.heard_room(message.room)
            if peer.role is m.Role.actor:
                self.run.forecast.note_heartbeat(peer.name, message.stats, self.run.leases.rollouts(peer.name))
            return [(peer.identity, m.Alive(known=True, heartbeat_s=self._heartbeat_s()))]
        if isinstance(message, m.FromActor):
            return self._on_actor(peer, message, now, frame)
        return self._on_learner(peer, message, now)

    def _on_actor(self, peer: Peer, message: m.FromActor, now: float, frame: bytes) -> list[Outgoing]:
        match message:
            case m.GroupResult():
                return [(peer.identity, self.dispatch.take_group(peer, message, now, frame))]
            case m.TicketHandedOver():
                return [(peer.identity, self.dispatch.take_handover(peer, message, now))]
            case m.TicketReturned():
                self.dispatch.take_back(peer, message.ordinal)
            case m.WeightsApplied():
                self.weights.applied(peer, message, now)
            case m.Leave():
                peer.start_leaving()
                self.weights.leave(peer.name)
            case _:
                assert_never(message)
        return []

    def _on_learner(self, peer: Peer, message: m.FromLearner, now: float) -> list[Outgoing]:
        if isinstance(message, m.OfGeneration) and message.generation != self.run.store.generation:
            self.count("buffer/dead_generation")
            return []
        match message:
            case m.TakeBatch():
                return self._take(message.version, now)
            case m.StepDone():
                self._advance(message)
            case m.CheckpointSaved():
                if not self.progress.checkpoint(message.version):
                    self.count("buffer/misplaced_messages")
            case m.Publish():
                return self.weights.publish(peer, message, now)
            case m.Offer():
                return self.weights.offer(peer, message)
            case m.Cordon():
                self.weights.cordon(message.names)
            case m.Finish():
                self._last_version(message.version)
            case _:
                assert_never(message)
        return []

    def tick(self, now: float) -> list[Outgoing]:
        """Do everything that became possible or due by `now`. Raises LedgerError, StalenessViolation."""
        self.dispatch.expire(now)
        self._drop_silent(now)
        out = self.weights.tick(now) + self._serve_batch(now)
        if self.progress.waits and not self.finishing:
            self.stragglers.look(now, self._heartbeat_s())
        else:
            self.stragglers.end()
        given = self.dispatch.issue(now, training=not self.finishing)
        out += [(peer.identity, tickets) for peer, tickets in given]
        self.run.held.note(now, holds=self._eta_holds())
        out += self._ask_for_weights(now) + self._finish(now)
        self.run.store.check()
        return out

    def commit(self) -> Future[None] | None:
        """Make durable what happened so far: see `Journal.commit`. Raises JournalFull, JournalError."""
        return self.run.commit()

    def may_leave(self, message: m.FromBuffer) -> bool:
        """Whether a message may be sent before the next commit."""
        return message.may_leave(self.run.durable_generation)

    def admit_keys(self, keys: list[str]) -> None:
        """The public keys (Z85) that may connect now; whoever serves weights admits the same."""
        self.weights.admit_keys(keys)

    def finished(self) -> bool:
        """Whether everything is said, and the clients have left or had time to."""
        return self._gone

    def stop(self, reason: str, *, failed: bool) -> list[Outgoing]:
        """Tell every client that the run is over, or cannot go on."""
        return [(peer.identity, m.Stop(reason=reason, failed=failed)) for peer in self.peers.all()]

    def count(self, name: str, amount: int = 1) -> None:
        """Count something that was dropped or refused, by the service too: "buffer/rejected_frames"."""
        self.run.counters.count(name, amount)

    def status(self, now: float) -> m.Status:
        """Everything that `prolong status` prints."""
        return make_status(
            self._settings,
            self.run,
            self.peers,
            self.quarantine.held(now),
            self.stragglers.sentence,
            self.progress.pace(now),
            now,
        )

    # --- coming and going -------------------------------------------------------------------------

    def _on_hello(self, identity: bytes, hello: m.Hello, now: float) -> list[Outgoing]:
        """A client greets: it is refused, or arrives, reconnects, or replaces a process of its name."""
        self._drop_silent(now)
        refused = refuse_hello(hello, self.peers, self._tokenizer, len(self._settings.stages))
        if refused is not None:
            self.count("buffer/refused")
            return [(identity, refused)]
        speaker, namesake = self.peers.find(identity), self.peers.named(hello.name)
        if speaker is not None and speaker is not namesake:
            self._drop(speaker)  # a socket speaks for one client
        if namesake is None:
            tickets = self._arrive(hello, now)
        elif namesake.is_process(hello):
            tickets = self._reconnect(hello)
        else:
            tickets = self._replace(namesake, hello, now)
        self.peers.join(identity, hello, now)
        self.dispatch.touch(hello.name)
        self.weights.reconnected(hello.name)
        return [(identity, self._welcome()), *((identity, message) for message in in_messages(tickets))]

    def _arrive(self, hello: m.Hello, now: float) -> list[Ticket]:
        """A process that this buffer has not met. Returns the tickets that it works on.

        A learner publishes or offers first. An actor has no tickets yet, unless they were recorded by a buffer that died while
        the actor lived on, and no weights, unless it pulls them.
        """
        if hello.role is m.Role.learner:
            self._admit_learner(hello)
            self.weights.learner_joined(now)
            self.finishing = False
        elif hello.role in (m.Role.actor, m.Role.relay):
            self.weights.join(hello)
        if hello.role is m.Role.actor:
            return self.dispatch.reclaim_leases(hello.name, holds_weights=hello.version >= 0)
        return []

    def _reconnect(self, hello: m.Hello) -> list[Ticket]:
        """The same process on another connection: it has what it had. Returns the tickets that it works on.

        The old connection may have lost messages: tickets are sent again (an actor knows which it has), and so is the last
        word, unless the learner went on from another version.
        """
        if hello.role is m.Role.learner:
            self._admit_learner(hello)
            self.finishing = self.finishing and hello.version == self.run.store.version
        else:
            self.weights.reconnect(hello)
        return self.dispatch.held_by(hello.name) if hello.role is m.Role.actor else []

    def _replace(self, former: Peer, hello: m.Hello, now: float) -> list[Ticket]:
        """Another process takes the name of one that the buffer holds for alive: that one is gone, and its tickets are lost."""
        self._drop(former)
        return self._arrive(hello, now)

    def _admit_learner(self, hello: m.Hello) -> None:
        """The learner is connected: its history decides where the run stands, and the buffer stays."""
        self.run.admit_learner(max(hello.version, 0), hello.generation, hello.stage)
        self.progress.stop_waiting()
        self.run.forecast.learner_starts()
        self._leave_at_s = None

    def _welcome(self) -> m.Welcome:
        store, buffer = self.run.store, self._settings.buffer
        return m.Welcome(
            generation=store.generation,
            heartbeat_s=self._heartbeat_s(),
            lease_s=buffer.silence_s,
            version=store.version if store.generation > 0 else -1,
        )

    def _heartbeat_s(self) -> float:
        """The pause between two heartbeats of a client: longer where there are thousands, and never near the silence limit."""
        buffer = self._settings.buffer
        return max(buffer.heartbeat_s, min(self.peers.num_peers / MAX_HEARTBEATS_PER_S, buffer.silence_s / 4))

    def _drop_silent(self, now: float) -> None:
        for peer in self.peers.silent(now, self._settings.buffer.silence_s):
            self._drop(peer)

    def _drop(self, peer: Peer) -> None:
        """A client is gone: its tickets are lost."""
        self.peers.leave(peer)
        self.weights.leave(peer.name)
        if peer.role in (m.Role.actor, m.Role.relay):
            self.count(f"buffer/{'left' if peer.leaving else 'lost'}_{peer.role}s")
        if peer.role is m.Role.actor:
            self.dispatch.fail_leases_of(peer.name)
            self.dispatch.forget(peer.name)
        elif peer.role is m.Role.learner:
            self.progress.stop_waiting()

    # --- batches ----------------------------------------------------------------------------------

    def _advance(self, message: m.StepDone) -> None:
        self.progress.advance(message.version, message.stage, saves=message.saves, evidence=message.evidence)

    def _take(self, version: int, now: float) -> list[Outgoing]:
        if self.progress.take(version):
            self.run.forecast.note_asked(now)
        else:
            self.count("buffer/misplaced_messages")
        return self._serve_batch(now)

    def _eta_holds(self) -> bool:
        """Whether the learner waits, and a larger eta would give it a batch or an actor a ticket."""
        run = self.run
        if not self.progress.waits or self.finishing or run.validation.blocks_training:
            return False
        return run.store.waits_for_deadlines or self.dispatch.holds_back()

    def _serve_batch(self, now: float) -> list[Outgoing]:
        learner = self.peers.learner
        batch = None if learner is None else self.progress.try_serve(self.peers, now)
        if learner is None or batch is None:
            return []
        self.run.forecast.note_served(now)
        return [(learner.identity, m.BatchReady(batch=batch))]

    def _request_reset(self) -> m.ResetNoted | m.Refused:
        version = None if self.finishing else self.run.store.request_reset()
        if version is None:
            return m.Refused(reason="the run has ended, or its last batch is formed: nothing would be reset")
        return m.ResetNoted(version=version)

    def _ask_for_weights(self, now: float) -> list[Outgoing]:
        """Ask the learner for weights when an actor or relay lacks them."""
        # while the learner waits for a batch, or the last sweep runs, actors that lag need the newest weights
        version = self.run.store.version if self.progress.waits or self.finishing else -1
        return self.weights.ask(version, now)

    # --- the end ----------------------------------------------------------------------------------

    def _last_version(self, version: int) -> None:
        if self.finishing:
            return
        self.finishing = self.progress.finish(version)
        if not self.finishing:
            self.count("buffer/misplaced_messages")

    def _finish(self, now: float) -> list[Outgoing]:
        """Say the last word to every client once the last sweep is in; then leave when they have left."""
        if self._leave_at_s is not None:
            self._gone = now >= self._leave_at_s or self.peers.all_silent(now, 4 * self._heartbeat_s())
            return []
        learner = self.peers.learner
        if not self.finishing or not self.run.validation.idle or learner is None:
            return []
        self._leave_at_s = now + FAREWELL_S
        stops = [(actor.identity, m.Stop(reason="the run is over")) for actor in self.peers.receivers()]
        return [(learner.identity, m.Finished(status=self.status(now))), *stops]

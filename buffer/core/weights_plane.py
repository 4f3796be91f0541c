"""The weights plane of one run as the core sees it: broadcasts (`membership.py`), pulls (`pulls.py`), and the clients of both.

    Publish, Cordon, WeightsApplied -> Membership -> PublishPlan, UpdateWeights, PublishResult
    Offer,           WeightsApplied -> Pullers      -> OfferNoted, UpdateWeights
    clients that come and go, keys  ->               WeightReaders, SyncRequested

A client takes part in one of the two, as its Hello says: `weights.transport`.
"""

from __future__ import annotations

import logging

from ...common import messages as m
from ...common.types import PULL
from .dispatch import Dispatch
from .peers import NO_READERS, Outgoing, Peer, Peers, never_published
from .pulls import PullOutcome, pulls_weights
from .run_state import RunState

log = logging.getLogger(__name__)

READERS_S = 1.0  # between two messages that tell the learner how many pull


class WeightsPlane:
    """Plans broadcasts, passes on offers, and takes acknowledgements."""

    def __init__(self, run: RunState, peers: Peers, dispatch: Dispatch) -> None:
        self._run, self._peers, self._dispatch = run, peers, dispatch
        self._membership, self._pullers = run.membership, run.pullers
        # public keys that servers of weights admit
        self._keys: list[str] = []
        self._readers = NO_READERS
        # clients that may have to be told of the readers
        self._untold: dict[str, None] = {}
        # the learner is not told of another number of pullers before that time
        self._tell_number_at_s = 0.0
        self._manifest_bytes = 0  # of the last broadcast

    # --- clients that come and go -----------------------------------------------------------------

    def learner_joined(self, now: float) -> None:
        """Another learner process."""
        self._membership.learner_joined(now)
        self._pullers.learner_joined(now)

    def join(self, hello: m.Hello) -> None:
        """An actor or relay that the buffer has not met."""
        if pulls_weights(hello):
            self._pullers.join(hello)
        else:
            self._membership.join(hello.name)

    def reconnect(self, hello: m.Hello) -> None:
        """The same actor or relay on another connection."""
        self._pullers.reconnect(hello)

    def reconnected(self, name: str) -> None:
        """A client has another connection."""
        self._untold[name] = None

    def leave(self, name: str) -> None:
        """An actor or relay is gone, or takes no more weights."""
        self._pullers.leave(name)
        self._membership.leave(name)

    def admit_keys(self, keys: list[str]) -> None:
        """These public keys (Z85) may connect to the buffer: those who serve weights admit the same."""
        self._keys = keys

    # --- messages ---------------------------------------------------------------------------------

    def publish(self, peer: Peer, message: m.Publish, now: float) -> list[Outgoing]:
        """The learner broadcasts a version."""
        self._manifest_bytes = sum(bucket.num_bytes for bucket in message.manifest.buckets)
        plan, updates = self._membership.publish(message, now)
        members = ((self._peers.named(name), update) for name, update in updates.items())
        return [(peer.identity, plan), *((member.identity, update) for member, update in members if member is not None)]

    def offer(self, peer: Peer, message: m.Offer) -> list[Outgoing]:
        """The learner offers a version to those who pull."""
        if not self._pullers.offer(message):
            self._run.counters.count("buffer/late_offers")
        return [(peer.identity, m.OfferNoted(version=message.version))]

    def applied(self, peer: Peer, message: m.WeightsApplied, now: float) -> None:
        """An actor or relay answers an update."""
        if self._pullers.find(peer.name) is None:
            self._membership.applied(peer.name, message)
            if not message.error:
                peer.weights.note(self._manifest_bytes, message.seconds)
            return
        outcome = self._pullers.applied(peer.name, message, now)
        if outcome is PullOutcome.wrong:
            self._distrust(peer.name, message.version)
        elif outcome is PullOutcome.failed:
            self._run.counters.count("buffer/failed_pulls")
            log.warning("weights of version %d did not reach %s: %s", message.version, peer.name, message.error)
        elif outcome is PullOutcome.unknown:
            self._run.counters.count("buffer/unknown_pulls")
        if not message.error:
            peer.weights.note(message.num_bytes, message.pull_s)
            self._run.counters.count("buffer/pulls")
            self._run.counters.count("buffer/pulled_bytes", message.num_bytes)

    def cordon(self, names: list[str]) -> None:
        """The learner found that these actors hold other weights than were sent."""
        for name, version in self._membership.cordon(names).items():
            self._distrust(name, version)

    def _distrust(self, name: str, version: int) -> None:
        """An actor had wrong weights from `version` on: drop what it sampled with them."""
        self._run.counters.count("buffer/cordoned")
        self._dispatch.distrust(name, version)

    # --- what is due ------------------------------------------------------------------------------

    def tick(self, now: float) -> list[Outgoing]:
        """What became possible or due, before tickets are issued: results of broadcasts, readers, pulls."""
        return self._finish_publish(now) + self._turn_away() + self._tell_readers(now) + self._tell_pullers(now)

    def ask(self, version: int, now: float) -> list[Outgoing]:
        """Ask the learner for weights that an actor or relay needs. `version`: as for `Membership.should_ask`."""
        learner, generation = self._peers.learner, self._run.store.generation
        if learner is None:
            return []
        reasons = [side.should_ask(generation, version, now) for side in (self._membership, self._pullers)]
        return [(learner.identity, m.SyncRequested(reason=reason)) for reason in reasons if reason]

    def _finish_publish(self, now: float) -> list[Outgoing]:
        result, learner = self._membership.try_finish(now), self._peers.learner
        if result is None or learner is None:
            return []
        self._run.counters.count("buffer/failed_publishes", len(result.failed))
        return [(learner.identity, result)]

    def _turn_away(self) -> list[Outgoing]:
        """Stop actors that wait for broadcasts when the learner makes none; those that greet later are refused."""
        learner = self._peers.learner
        if learner is None or learner.hello.transport != PULL:
            return []
        out: list[Outgoing] = []
        for name in self._membership.names():
            self._membership.leave(name)
            actor = self._peers.named(name)
            if actor is not None and not actor.leaving:
                actor.start_leaving()
                self._run.counters.count("buffer/refused")
                out.append((actor.identity, m.Stop(reason=never_published(actor.hello), failed=True)))
        return out

    def _tell_readers(self, now: float) -> list[Outgoing]:
        """Tell the learner and all who serve weights who may pull, when that has changed.

        Those who serve need the keys alone, and the learner need not hear of every one of a thousand pullers.
        """
        num_pullers, readers = self._pullers.num_pullers, self._readers
        concerned: list[str] = []
        if num_pullers == 0:
            self._readers = NO_READERS
        elif readers is NO_READERS or self._keys is not readers.keys:
            concerned = self._pullers.servers()
            self._note_readers(now)
        elif num_pullers != readers.num_pullers and now >= self._tell_number_at_s:
            self._note_readers(now)
        untold, self._untold = self._untold | dict.fromkeys(concerned), {}
        peers = [self._peers.named(name) for name in untold if self._pullers.serves(name)]
        out: list[Outgoing] = []
        for peer in (self._peers.learner, *peers):
            if peer is not None and peer.readers is not self._readers:
                peer.readers = self._readers
                out.append((peer.identity, self._readers))
        return out

    def _note_readers(self, now: float) -> None:
        self._readers = m.WeightReaders(num_pullers=self._pullers.num_pullers, keys=self._keys)
        self._tell_number_at_s = now + READERS_S

    def _tell_pullers(self, now: float) -> list[Outgoing]:
        # without a learner relays can still serve what it offered last
        learner = self._peers.learner
        updates = self._pullers.due(self._run.store.generation, "" if learner is None else learner.hello.host, now)
        told = ((self._peers.named(name), update) for name, update in updates)
        return [(peer.identity, update) for peer, update in told if peer is not None]

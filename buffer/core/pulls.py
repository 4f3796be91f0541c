"""Which client that pulls its weights holds which version, and who is told to pull what from whom. The bytes never pass here.

    Offer -> UpdateWeights to everybody who is behind -> WeightsApplied from each, in its own time

There is no plan and there are no members: nobody waits for a puller. One that is behind is told of the newest version at once,
also while it pulls an older one; what it holds is what it acknowledged, with the learner's checksums. Nothing of this is in the
journal: a buffer that starts again learns from Hello what each puller holds, and from the learner what is on offer.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum

import msgspec

from ...common.messages import Hello, Offer, Role, UpdateWeights, WeightsApplied
from ...common.types import PULL, PullAddress, Rendezvous, WeightSource
from .weight_tree import PullerPlace, path_to_learner, weight_tree

MAX_SOURCES = 3  # in one PullAddress: more might not fit into a Rendezvous
REMEMBERED = 1024  # offers whose acknowledgements can be checked
FIRST_PAUSE_S = 1.0  # after an error; twice as long after each that follows
UNRELIABLE = 2  # errors in a row after which others are not sent to a server


class PullOutcome(StrEnum):
    """What an acknowledgement of a puller says."""

    held = "held"  # it holds the version
    failed = "failed"  # it could not get the version
    wrong = "wrong"  # it holds other weights than were offered
    unknown = "unknown"  # it speaks of a version that the present learner did not offer, or of a dead generation


@dataclass(slots=True)
class PullState:
    """One living client that pulls."""

    host: str
    role: Role
    serves: WeightSource | None
    generation: int = -1
    version: int = -1  # acknowledged last; -1: none, or not to be trusted
    # its checksums were compared with the offer's, by this buffer
    is_checked: bool = False
    is_wrong: bool = False  # its last acknowledgement had other checksums
    # version of the last update that it was told of, and has not answered; -1: none
    told: int = -1
    told_s: float = 0.0
    told_sources: tuple[str, ...] = ()  # names
    num_errors: int = 0  # in a row
    error: str = ""  # the last of them
    pause_until_s: float = 0.0  # it is told nothing before that time

    @property
    def is_behind(self) -> bool:
        """Whether it was told of a version, and has not got it yet."""
        return self.told >= 0 or self.num_errors > 0

    def acknowledge(self, generation: int, version: int) -> None:
        """It holds the version, and its checksums are right."""
        self.generation, self.version, self.is_checked = generation, version, True
        self.is_wrong, self.num_errors, self.error, self.pause_until_s = False, 0, "", 0.0

    def fail(self, error: str, now: float, longest_pause_s: float) -> None:
        """It did not get what it was told of, and is told again after a pause."""
        self.told, self.error = -1, error
        self.pause_until_s = now + min(FIRST_PAUSE_S * 2 ** min(self.num_errors, 20), longest_pause_s)
        self.num_errors += 1


class Pullers:
    """The pulling side of the weights plane. No clock: the caller says what time it is.

    Example:
        pulls = Pullers(timeout_s=60.0, resync_interval_s=1.0)
        pulls.join(Hello(name="actor-0", transport="pull", ...))
        pulls.offer(Offer(version=7, ...))
        pulls.due(generation=1, learner_host="gpu-1", now=now)   # [("actor-0", UpdateWeights(version=7, epoch=-1, ...))]
        pulls.applied("actor-0", WeightsApplied(version=7, ...), now)             # PullOutcome.held
        pulls.version_of("actor-0", generation=1)                                 # 7: it may generate
    """

    def __init__(self, *, timeout_s: float, resync_interval_s: float) -> None:
        """`timeout_s`: an update that was not answered is sent again. `resync_interval_s`: as for Membership."""
        self._timeout_s, self._resync_interval_s = timeout_s, resync_interval_s
        self._pullers: dict[str, PullState] = {}
        self._offer: Offer | None = None  # the newest of the present learner
        # catalog -> version and fingerprint of the checksums, of what the present learner offered
        self._offered: dict[bytes, tuple[int, bytes]] = {}
        # names of living or former pullers whose Hello is not believed: their last checksums were wrong
        self._distrusted: set[str] = set()
        self._tree: tuple[list[PullerPlace], str] | None = None  # places and learner's host that `_parents` was made of
        self._parents: dict[str, str] = {}
        self._ask_at_s = 0.0

    # --- who pulls --------------------------------------------------------------------------------

    def join(self, hello: Hello) -> None:
        """A puller that this buffer has not met: it holds what it says, until that can be compared with an offer."""
        puller = self._pullers[hello.name] = PullState(host=hello.host, role=hello.role, serves=hello.serves)
        if hello.name not in self._distrusted:
            puller.generation, puller.version = hello.generation, hello.version

    def reconnect(self, hello: Hello) -> None:
        """The same process on another connection: what it was told may be lost, so it is told again."""
        puller = self._pullers.get(hello.name)
        if puller is not None:
            puller.told, puller.serves = -1, hello.serves

    def leave(self, name: str) -> None:
        """A puller is gone, or takes no more weights: nobody is sent to it any more."""
        self._pullers.pop(name, None)

    def find(self, name: str) -> PullState | None:
        """The puller of this name."""
        return self._pullers.get(name)

    @property
    def num_pullers(self) -> int:
        return len(self._pullers)

    def servers(self) -> list[str]:
        """The pullers that others may pull from."""
        return [name for name, puller in self._pullers.items() if puller.serves is not None]

    # --- what is on offer -------------------------------------------------------------------------

    def learner_joined(self, now: float) -> None:
        """Another learner process: what was on offer is gone. A learner offers when it starts, so it is not asked to.

        Who serves must have this learner's catalogs, though the versions be the same. Pulls from one that died tell nothing
        of those who failed.
        """
        self._offer = None
        self._offered.clear()
        self._ask_at_s = now + self._resync_interval_s
        self._forget_told()
        for puller in self._pullers.values():
            puller.num_errors, puller.pause_until_s = 0, 0.0
            if puller.serves is not None:
                puller.is_checked = False
            if puller.role is Role.relay:
                puller.generation = puller.version = -1

    def _forget_told(self) -> None:
        for puller in self._pullers.values():
            puller.told = -1

    def offer(self, offer: Offer) -> bool:
        """The learner offers a version. False for one that is older than its last offer: it comes late, and changes nothing."""
        last = self._offer
        if last is not None and last.generation == offer.generation and last.version > offer.version:
            return False
        if last is not None and last != offer and last.version >= offer.version:
            # another generation, or another catalog: what was told of a version of this number is void
            self._forget_told()
        self._offer = offer
        self._offered[offer.catalog] = offer.version, _fingerprint(offer.checksums)
        if len(self._offered) > REMEMBERED:
            del self._offered[next(iter(self._offered))]
        return True

    def version_of(self, name: str, generation: int) -> int | None:
        """The version that a puller may generate with, or None."""
        puller = self._pullers.get(name)
        if puller is None or puller.generation != generation or puller.version < 0:
            return None
        return puller.version

    # --- telling and hearing ----------------------------------------------------------------------

    def due(self, generation: int, learner_host: str, now: float) -> list[tuple[str, UpdateWeights]]:
        """The updates to be sent now, by name: to all who are behind and do not know it, or have not answered for long."""
        offer = self._offer
        if offer is None or offer.generation != generation:
            return []
        behind = [(name, puller) for name, puller in self._pullers.items() if self._must_tell(puller, offer, now)]
        parents = self._tree_for(offer, learner_host) if behind else {}
        told: list[tuple[str, UpdateWeights]] = []
        for name, puller in behind:
            path = path_to_learner(name, parents)[: MAX_SOURCES - 1]
            puller.told, puller.told_s, puller.told_sources = offer.version, now, (*path, "learner")
            told.append((name, self._update(offer, path)))
        return told

    def _must_tell(self, puller: PullState, offer: Offer, now: float) -> bool:
        waits = puller.told == offer.version and now < puller.told_s + self._timeout_s
        return not waits and now >= puller.pause_until_s and _lacks(puller, offer)

    def _tree_for(self, offer: Offer, learner_host: str) -> dict[str, str]:
        """Whom each asks first for what is on offer."""
        places = [
            PullerPlace(name, puller.host, puller.role is Role.relay, _can_serve(puller, offer))
            for name, puller in self._pullers.items()
        ]
        if (places, learner_host) != self._tree:
            self._tree, self._parents = (places, learner_host), weight_tree(places, learner_host, self._parents)
        return self._parents

    def _update(self, offer: Offer, path: list[str]) -> UpdateWeights:
        servers = [source for name in path if (source := self._pullers[name].serves) is not None]
        address = PullAddress(catalog=offer.catalog, sources=[*servers, offer.source])
        return UpdateWeights(
            generation=offer.generation,
            version=offer.version,
            epoch=-1,
            member=0,
            num_members=1,
            rendezvous=Rendezvous(transport=PULL, address=msgspec.msgpack.encode(address)),
            manifest=offer.manifest,
        )

    def applied(self, name: str, message: WeightsApplied, now: float) -> PullOutcome:
        """A puller answers. While it holds an older version than the newest that it was told of, it goes on by itself."""
        puller = self._pullers.get(name)
        if puller is None:
            return PullOutcome.unknown  # it is leaving
        if message.error:
            if message.version >= puller.told >= 0 and self._offer is not None and message.generation == self._offer.generation:
                puller.fail(message.error, now, self._timeout_s)
            return PullOutcome.failed
        version, expected = self._offered.get(message.catalog, (None, b""))
        if message.version != version:
            # it may hold that version, and goes on with what it is known to hold: tokens may be newer than their ticket says
            puller.told = -1
            return PullOutcome.unknown
        if puller.role is Role.actor and _fingerprint(message.checksums) != expected:
            puller.generation = puller.version = -1
            puller.is_checked, puller.is_wrong = False, True
            puller.fail("its weights had other checksums than the learner's", now, self._timeout_s)
            self._distrusted.add(name)
            return PullOutcome.wrong
        puller.acknowledge(message.generation, message.version)
        self._distrusted.discard(name)
        if puller.told <= message.version:
            puller.told = -1
        return PullOutcome.held

    def should_ask(self, generation: int, version: int, now: float) -> str:
        """Why the learner must be asked for an offer now; empty when it need not be. A reason starts the next interval.

        `version`: what pullers must hold at least; -1 when any version of the generation will do.
        """
        offer = self._offer
        if now < self._ask_at_s or (offer is not None and offer.generation == generation and offer.version >= version):
            return ""
        held = {name: self.version_of(name, generation) for name in self._pullers}
        lacking = [name for name, holds in held.items() if holds is None or holds < version]
        if not lacking:
            return ""
        self._ask_at_s = now + max(self._resync_interval_s, self._timeout_s / 4)
        newest = f"version {offer.version}" if offer is not None and offer.generation == generation else "nothing"
        wanted = f"version {version} or later" if version >= 0 else "weights"
        return f"{', '.join(lacking)} would pull {wanted} of generation {generation}, and {newest} is on offer"


def pulls_weights(hello: Hello) -> bool:
    """Whether a client takes no part in broadcasts: it pulls."""
    return hello.role is Role.relay or (hello.role is Role.actor and hello.transport == PULL)


def _lacks(puller: PullState, offer: Offer) -> bool:
    """Whether a puller needs what is on offer: a later version than it holds, or one that it only says it holds."""
    if puller.generation != offer.generation or puller.version < offer.version:
        return True
    return puller.version == offer.version and not puller.is_checked


def _can_serve(puller: PullState, offer: Offer) -> bool:
    """Whether others may be sent to a puller for what is on offer; it may still be pulling that itself."""
    if puller.serves is None or puller.is_wrong or puller.num_errors >= UNRELIABLE:
        return False
    # it may hold a later version of a learner that died before it saved it
    return puller.generation != offer.generation or puller.version <= offer.version


def _fingerprint(checksums: list[int]) -> bytes:
    return hashlib.sha256(msgspec.msgpack.encode(checksums)).digest()

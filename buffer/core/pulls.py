"""Which client that pulls its weights holds which version, and who is told to pull what from whom. The bytes never pass here.

    Offer -> UpdateWeights to everybody who is behind -> WeightsApplied from each, in its own time

There is no plan and there are no members: nobody waits for a puller. One that is behind is told of the newest version at once,
also while it pulls an older one; what it holds is what it acknowledged, with the learner's checksums. Nothing of this is in the
journal: a buffer that starts again learns from Hello what each puller holds, and from the learner what is on offer.

An offer is looked at for every puller; all else costs work for the pullers that it is about: `_changed` ones, and those of whom
it is known when they must be told again.
"""

from __future__ import annotations

import hashlib
import heapq
from dataclasses import dataclass
from enum import StrEnum

import msgspec

from ...common.messages import Hello, Offer, Role, UpdateWeights, WeightsApplied
from ...common.types import PULL, PullAddress, Rendezvous, WeightSource
from .held_versions import HeldVersions, names_text
from .weight_tree import PullerPlace, WeightTree

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
        # what `version_of` says, by version
        self._held = HeldVersions()
        # pullers that serve, in order of joining
        self._servers: dict[str, None] = {}
        # of whom it must be seen whether they must be told
        self._changed: dict[str, None] = {}
        # heap of (time, name): when a puller that is behind must be told again
        self._told_again: list[tuple[float, str]] = []
        self._tree = WeightTree()
        self._ask_at_s = 0.0

    # --- who pulls --------------------------------------------------------------------------------

    def join(self, hello: Hello) -> None:
        """A puller that this buffer has not met: it holds what it says, until that can be compared with an offer."""
        self.leave(hello.name)
        puller = self._pullers[hello.name] = PullState(host=hello.host, role=hello.role, serves=hello.serves)
        if hello.name not in self._distrusted:
            puller.generation, puller.version = hello.generation, hello.version
        if hello.serves is not None:
            self._servers[hello.name] = None
        self._note(hello.name, puller)
        self._tree.add(self._place(hello.name, puller))

    def reconnect(self, hello: Hello) -> None:
        """The same process on another connection: what it was told may be lost, so it is told again."""
        puller = self._pullers.get(hello.name)
        if puller is None:
            return
        puller.told = -1
        self._changed[hello.name] = None
        if puller.serves != hello.serves:
            puller.serves = hello.serves
            self._list_servers()

    def _list_servers(self) -> None:
        self._servers = {name: None for name, puller in self._pullers.items() if puller.serves is not None}
        self._tree.forget()

    def leave(self, name: str) -> None:
        """A puller is gone, or takes no more weights: nobody is sent to it any more."""
        if self._pullers.pop(name, None) is not None:
            self._held.forget(name)
            self._servers.pop(name, None)
            self._tree.remove(name)

    def _note(self, name: str, puller: PullState) -> None:
        """What a puller holds may have changed, or whether others can be sent to it."""
        self._held.note(name, puller.generation, puller.version)
        self._changed[name] = None

    def find(self, name: str) -> PullState | None:
        """The puller of this name."""
        return self._pullers.get(name)

    @property
    def num_pullers(self) -> int:
        return len(self._pullers)

    def servers(self) -> list[str]:
        """The pullers that others may pull from."""
        return list(self._servers)

    def serves(self, name: str) -> bool:
        """Whether others may pull from a puller."""
        return name in self._servers

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
        self._look_at_all(None)

    def _look_at_all(self, last: Offer | None) -> None:
        """Something else is on offer than `last`, or nothing."""
        for name, puller in self._pullers.items():
            self._note(name, puller)
        self._told_again.clear()
        servers = [self._pullers[name] for name in self._servers]
        if any(_can_serve(server, last) != _can_serve(server, self._offer) for server in servers):
            self._tree.forget()

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
        if offer != last:
            self._look_at_all(last)
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
        while self._told_again and self._told_again[0][0] <= now:
            self._changed[heapq.heappop(self._told_again)[1]] = None
        changed, self._changed = self._changed, {}
        living = ((name, puller) for name in changed if (puller := self._pullers.get(name)) is not None)
        behind = [(name, puller) for name, puller in living if self._must_tell(name, puller, offer, now)]
        if not behind:
            return []
        self._tree.plant(self._places, learner_host)
        told: list[tuple[str, UpdateWeights]] = []
        updates: dict[tuple[str, ...], UpdateWeights] = {}
        for name, puller in behind:
            path = tuple(self._tree.path_to_learner(name)[: MAX_SOURCES - 1])
            puller.told, puller.told_s, puller.told_sources = offer.version, now, (*path, "learner")
            heapq.heappush(self._told_again, (now + self._timeout_s, name))
            if path not in updates:
                updates[path] = self._update(offer, path)
            told.append((name, updates[path]))
        return told

    def _must_tell(self, name: str, puller: PullState, offer: Offer, now: float) -> bool:
        """Whether a puller must be told of an offer now; if it must be later, it is looked at again then."""
        if not _lacks(puller, offer):
            return False
        waits_until_s = puller.told_s + self._timeout_s if puller.told == offer.version else now
        due_s = max(waits_until_s, puller.pause_until_s)
        if due_s > now:
            heapq.heappush(self._told_again, (due_s, name))
        return due_s <= now

    def _places(self) -> list[PullerPlace]:
        return [self._place(name, puller) for name, puller in self._pullers.items()]

    def _place(self, name: str, puller: PullState) -> PullerPlace:
        return PullerPlace(name, puller.host, puller.role is Role.relay, _can_serve(puller, self._offer))

    def _update(self, offer: Offer, path: tuple[str, ...]) -> UpdateWeights:
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
        could_serve = _can_serve(puller, self._offer)
        outcome = self._take_answer(name, puller, message, now)
        self._note(name, puller)
        if _can_serve(puller, self._offer) != could_serve:
            self._tree.forget()
        return outcome

    def _take_answer(self, name: str, puller: PullState, message: WeightsApplied, now: float) -> PullOutcome:
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

    def lacking(self, generation: int, version: int) -> list[str]:
        """Living pullers that hold no weights of this generation, or older ones than `version` (-1: any version will do)."""
        return self._held.lacking(generation, version)

    def should_ask(self, generation: int, version: int, now: float) -> str:
        """Why the learner must be asked for an offer now; empty when it need not be. A reason starts the next interval.

        `version`: what pullers must hold at least; -1 when any version of the generation will do.
        """
        offer = self._offer
        if now < self._ask_at_s or (offer is not None and offer.generation == generation and offer.version >= version):
            return ""
        lacking = self.lacking(generation, version)
        if not lacking:
            return ""
        self._ask_at_s = now + max(self._resync_interval_s, self._timeout_s / 4)
        newest = f"version {offer.version}" if offer is not None and offer.generation == generation else "nothing"
        wanted = f"version {version} or later" if version >= 0 else "weights"
        return f"{names_text(lacking)} would pull {wanted} of generation {generation}, and {newest} is on offer"


def pulls_weights(hello: Hello) -> bool:
    """Whether a client takes no part in broadcasts: it pulls."""
    return hello.role is Role.relay or (hello.role is Role.actor and hello.transport == PULL)


def _lacks(puller: PullState, offer: Offer) -> bool:
    """Whether a puller needs what is on offer: a later version than it holds, or one that it only says it holds."""
    if puller.generation != offer.generation or puller.version < offer.version:
        return True
    return puller.version == offer.version and not puller.is_checked


def _can_serve(puller: PullState, offer: Offer | None) -> bool:
    """Whether others may be sent to a puller for what is on offer; it may still be pulling that itself."""
    if puller.serves is None or puller.is_wrong or puller.num_errors >= UNRELIABLE:
        return False
    if offer is None:
        return True
    # it may hold a later version of a learner that died before it saved it
    return puller.generation != offer.generation or puller.version <= offer.version


def _fingerprint(checksums: list[int]) -> bytes:
    return hashlib.sha256(msgspec.msgpack.encode(checksums)).digest()

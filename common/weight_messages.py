"""The messages of the weights plane: what the learner broadcasts or offers, who receives it, and what they say of it.

    broadcast     Publish -> PublishPlan     < UpdateWeights     > WeightsApplied     < PublishResult     > Cordon
    pull          Offer -> OfferNoted        < UpdateWeights     > WeightsApplied     < WeightReaders
    either        < SyncRequested

`messages.py` has the other messages and the unions that these belong to; import them from there.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from .message_kinds import Answer, BufferMessage, LearnerMessage, OfGeneration, Question, WeightsMessage
from .types import MANY, Manifest, Number, Rendezvous, Text, WeightSource, Word


class PublishPlan(Answer, frozen=True):
    """The actors to send a version to.

    An epoch is one list of members at one rendezvous, in one generation: plans of the same epoch may use the same connections.
    """

    generation: int
    version: int
    epoch: int
    members: list[str]  # none: every actor has these weights, or takes part in no broadcast now

    def key(self) -> tuple[int, ...]:
        return self.generation, self.version

    def is_of(self, generation: int) -> bool:
        return self.generation == generation


class Publish(OfGeneration, Question[PublishPlan], frozen=True):
    """The learner wants to send the weights of `version` to every actor that lacks them."""

    asked_again = True

    version: Number
    rendezvous: Rendezvous
    manifest: Manifest
    # limit of each phase of the broadcast: reaching the others, one bucket, the acknowledgements; 0: weights.timeout_s
    phase_timeout_s: float = 0.0
    # epoch of a broadcast that the learner no longer waits for: members that have not answered count as absent
    given_up: Number = -1

    def key(self) -> tuple[int, ...]:
        return self.generation, self.version


class PublishResult(BufferMessage, frozen=True):
    """To the learner: each member of the plan has acknowledged, failed, or missed the deadline."""

    epoch: int
    version: int
    checksums: dict[str, list[int]]  # of the members that hold the weights, by name
    failed: dict[str, str]  # why the others do not, by name


class Cordon(LearnerMessage, frozen=True):
    """These actors acknowledged checksums other than those of the weights that were sent: they need them again."""

    epoch: Number
    names: Annotated[list[Word], MANY]


class SyncRequested(BufferMessage, frozen=True):
    """To the learner: actors or relays lack weights that they need; publish and offer the current version again."""

    reason: str


class OfferNoted(Answer, frozen=True):
    """The offer is durable enough to be passed on."""

    version: int

    def key(self) -> tuple[int, ...]:
        return (self.version,)


class Offer(OfGeneration, Question[OfferNoted], frozen=True):
    """The weights of `version` can be pulled from `source`, older ones perhaps not any more, until another learner greets."""

    asked_again = True

    version: Number
    manifest: Manifest
    checksums: Annotated[list[int], MANY]  # of the buckets, in their order
    catalog: Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]  # as PullAddress.catalog
    source: WeightSource

    def key(self) -> tuple[int, ...]:
        return (self.version,)


class WeightReaders(BufferMessage, frozen=True):
    """To the learner, and to relays and actors that serve weights: who may pull from them. Sent when it changes."""

    durable_first = False

    num_pullers: int  # living actors and relays that pull; without any the learner makes no offers
    keys: list[str]  # public CURVE keys (Z85) of the clients that may connect; empty where the run has no keys


class UpdateWeights(BufferMessage, frozen=True):
    """To an actor or relay: download `version`, as a member of `epoch`; or pull it, where the rendezvous says so.

    For a pull, `epoch` is -1, `member` 0 and `num_members` 1. Its answer is the WeightsApplied of its version, unless a newer
    one came meanwhile. What is not answered within weights.timeout_s is sent again, perhaps with other sources: a pull of
    that version that is under way goes on. A version that is held already is acknowledged again.
    """

    generation: int
    version: int
    epoch: int
    member: int  # this actor's place in the plan's list of members, from 0
    num_members: int
    rendezvous: Rendezvous
    manifest: Manifest
    phase_timeout_s: float = 0.0  # as in Publish


class WeightsApplied(WeightsMessage, frozen=True):
    """A receiver of weights holds those of `version` now, or says why it does not."""

    generation: Number
    version: Number
    epoch: Number  # of the broadcast; -1 for weights that were pulled
    checksums: Annotated[list[int], MANY]  # of the received buckets, in their order; empty after an error, and of a relay
    seconds: float
    error: Text = ""
    # of weights that were pulled
    num_bytes: Number = 0  # that came over the network
    pull_s: float = 0.0  # from the first request to the last checked chunk
    catalog: Annotated[bytes, msgspec.Meta(max_length=32)] = b""  # as in the offer that it pulled

"""The messages between the buffer and its clients, and the rules that each class of message carries.

Clients (actors, the learner, observers) talk to the buffer only; weights are the one thing that flows between them directly.
`->` is a question and its answer, `>` a message to the buffer and `<` one from the buffer that answers no question.

    every client  Hello -> Welcome | Refused     Heartbeat -> Alive     < Stop
    actor         < Tickets     GroupResult -> GroupAck     TicketHandedOver -> GroupAck     > TicketReturned     > Leave
                  < UpdateWeights     > WeightsApplied     < WeightReaders
    learner       TakeBatch -> BatchReady     > StepDone     > CheckpointSaved     Finish -> Finished
                  Publish -> PublishPlan     < PublishResult     > Cordon     < SyncRequested
                  Offer -> OfferNoted     < WeightReaders
    relay         < UpdateWeights     > WeightsApplied     < WeightReaders     > Leave
    anyone        StatusRequest -> Status     RequestReset -> ResetNoted | Refused     (without a Hello)

The rules are attributes of the classes, so no table elsewhere has to be kept in step:

    senders        which roles may send a message: the core counts any other sender as misplaced
    Question[A]    names its answer; `asked_again`, `newest_only` and `close_waits` tell the client's session what to do with it
    may_leave      what must be durable before a message of the buffer is sent

Example: a learner waits for a batch.

    class TakeBatch(OfGeneration, Question[BatchReady], frozen=True):
        asked_again = True
        version: Number

    client.ask(batches, lambda generation: TakeBatch(generation=generation, version=7), deadline_s=600.0, stop=stop)

To add a message: write its class, name it in the union of its direction, and handle it where pyright reports `assert_never`.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from .message_kinds import (
    ActorMessage,
    Answer,
    BufferMessage,
    LearnerMessage,
    OfGeneration,
    Question,
    Role,
    WeightsMessage,
)
from .types import (
    FEW,
    MANY,
    Batch,
    Group,
    Manifest,
    Number,
    Rendezvous,
    StartedRollout,
    Text,
    Ticket,
    ValidationScore,
    WeightSource,
    Word,
)

PROTOCOL_VERSION = 5
# A version or generation that a client claims to be at: far enough below the largest Number that a run can go on from it.
Claim = Annotated[int, msgspec.Meta(ge=-1, le=1 << 32)]


# --- every client: arriving, staying, the end -------------------------------------------------------------------------


class Welcome(Answer, frozen=True):
    """The client is admitted. Sent as soon as its generation is durable, so that peers stay known while the disk is full."""

    generation: int  # the learner stores it in its checkpoints
    heartbeat_s: float
    lease_s: float  # silence after which a peer counts as gone
    version: int  # of the learner, as the buffer knows it; -1 before the first

    def may_leave(self, durable_generation: int) -> bool:
        return self.generation == durable_generation


class Refused(Answer, frozen=True, forbid_unknown_fields=False):
    """The client is not admitted, or its request is not granted; `reason` is a sentence that says what to do."""

    durable_first = False

    reason: str
    # the client should ask again until its own deadline: a peer that may be dead still holds the name
    retry: bool = False


class Hello(Question[Welcome | Refused], frozen=True, forbid_unknown_fields=False):
    """The first message of a client, and of each new connection. That of a newer protocol is read, in order to be refused."""

    role: Role
    name: Word  # unique among the living: "actor-0"
    protocol: Number
    tokenizer: Word  # fingerprint (common/tokenizer.py)
    host: Word
    pid: Number
    capacity: Number = 0  # actor: rollouts that it can work on at once
    # learner: the policy version that it starts from; actor and relay: of the weights that it holds
    version: Claim = -1
    # learner: of the checkpoint that it resumes, -1 for a fresh start; actor and relay: of the weights that it holds
    generation: Claim = -1
    stage: Number = 0  # learner: index of the stage that it is in
    # actor: how weights reach it, a name in common/weights/transports.py or "pull"; learner: "pull" if it never publishes
    transport: Word = "collective"
    # relay, or actor that serves: where others pull from it
    serves: WeightSource | None = None


class Alive(Answer, frozen=True):
    """The answer to a Heartbeat, and to any message of a client that the buffer does not know."""

    durable_first = False

    known: bool  # False: say Hello again (the buffer restarted, or gave the client up)


class Heartbeat(Question[Alive], frozen=True):
    """Sent every `heartbeat_s`."""

    # cumulative since the client started: seconds, tokens, counts
    stats: Annotated[dict[Word, float], FEW] = msgspec.field(default_factory=dict)


class Stop(BufferMessage, frozen=True):
    """To every client: the run is over, or cannot go on (`failed`)."""

    durable_first = False

    reason: str
    failed: bool = False


# --- actor: tickets and groups ----------------------------------------------------------------------------------------


class Tickets(BufferMessage, frozen=True):
    """Work for an actor."""

    tickets: list[Ticket]


class GroupAck(Answer, frozen=True):
    """The buffer holds the group, or what was handed over of it.

    `accepted` is False for duplicates, dead generations and unknown tickets.
    """

    ordinal: int
    accepted: bool
    reason: str = ""

    def key(self) -> tuple[int, ...]:
        return (self.ordinal,)


class GroupResult(ActorMessage, Question[GroupAck], frozen=True):
    """A finished group. The actor keeps it until it is acknowledged."""

    asked_again = True
    newest_only = False
    close_waits = True

    group: Group

    def key(self) -> tuple[int, ...]:
        return (self.group.ordinal,)


class TicketHandedOver(ActorMessage, Question[GroupAck], frozen=True):
    """The actor leaves: another one goes on with this ticket. It is kept until it is acknowledged, as a group is."""

    asked_again = True
    newest_only = False
    close_waits = True

    ordinal: Number
    generation: Number
    # all that there is of its rollouts, by earlier actors too; those without tokens are left out
    started: Annotated[list[StartedRollout], msgspec.Meta(max_length=1_024)]

    def key(self) -> tuple[int, ...]:
        return (self.ordinal,)


class TicketReturned(ActorMessage, frozen=True):
    """The actor gives a ticket back without a group."""

    ordinal: Number
    reason: Text


class Leave(WeightsMessage, frozen=True):
    """The actor takes no more tickets; it finishes, hands over or returns those that it holds. No weights go to or from it."""

    reason: Text


# --- learner: batches, steps, the end of the run ----------------------------------------------------------------------


class BatchReady(Answer, frozen=True):
    """The batch that was asked for, once the staleness contract allows one."""

    only_once = True

    batch: Batch

    def key(self) -> tuple[int, ...]:
        return self.batch.generation, self.batch.version

    def is_of(self, generation: int) -> bool:
        return self.batch.generation == generation


class TakeBatch(OfGeneration, Question[BatchReady], frozen=True):
    """The learner at `version` waits for a batch."""

    asked_again = True

    version: Number

    def key(self) -> tuple[int, ...]:
        return self.generation, self.version


class StepDone(OfGeneration, frozen=True):
    """The batch of `version - 1` was trained: the learner is at `version` now, in stage `stage`, and `saves` it or not."""

    version: Number
    stage: Number = 0
    saves: bool = False


class CheckpointSaved(OfGeneration, frozen=True):
    """A checkpoint of `version` is durable: batches before it need not be served again."""

    version: Number


class Status(Answer, frozen=True):
    """The state of a run, as `prolong status` prints it."""

    durable_first = False

    run: str
    generation: int
    version: int
    steps: int
    ledger: dict[str, int]  # one count per ticket state, and "total"
    balanced: bool
    peers: dict[str, dict[str, float | str]]  # name -> role, state, version, leases, silence_s, stats
    counters: dict[str, int]  # rejected frames, duplicates, lost leases, ...
    validation: list[ValidationScore]


class Finished(Answer, frozen=True):
    """The last validation has ended; this is the end of the run."""

    status: Status

    def key(self) -> tuple[int, ...]:
        return (self.status.generation,)

    def is_of(self, generation: int) -> bool:
        return self.status.generation == generation


class Finish(OfGeneration, Question[Finished], frozen=True):
    """The learner made its last version; validation of it may still be under way."""

    asked_again = True

    version: Number

    def key(self) -> tuple[int, ...]:
        return (self.generation,)


# --- weights ----------------------------------------------------------------------------------------------------------


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


# --- anyone, without a Hello ------------------------------------------------------------------------------------------


class StatusRequest(Question[Status], frozen=True):
    """Asks for the state of the run."""


class ResetNoted(Answer, frozen=True):
    """The reset will be part of the batch of this version."""

    version: int


class RequestReset(Question[ResetNoted | Refused], frozen=True):
    """Asks for a reset of the reference; it goes out with the next batch that is formed."""


FromActor = GroupResult | TicketHandedOver | TicketReturned | WeightsApplied | Leave
FromLearner = TakeBatch | StepDone | CheckpointSaved | Publish | Offer | Cordon | Finish
FromClient = Hello | Heartbeat | FromActor | FromLearner | StatusRequest | RequestReset
FromBuffer = (
    Welcome
    | Refused
    | Alive
    | Stop
    | Tickets
    | GroupAck
    | UpdateWeights
    | OfferNoted
    | WeightReaders
    | BatchReady
    | Finished
    | PublishPlan
    | PublishResult
    | SyncRequested
    | Status
    | ResetNoted
)

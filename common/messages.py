"""The messages between the buffer and its clients, and the rules that each class of message carries.

Clients (actors, relays, the learner, observers) talk to the buffer only; weights alone flow between them directly.
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

The kinds are in `message_kinds.py`, the messages of the weights plane in `weight_messages.py`.

To add a message: write its class, name it in the union of its direction, and handle it where pyright reports `assert_never`.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from .message_kinds import ActorMessage, Answer, BufferMessage, OfGeneration, Question, Role, WeightsMessage
from .types import FEW, Batch, Group, Number, StartedRollout, StepEvidence, Text, Ticket, ValidationScore, WeightSource, Word
from .weight_messages import (
    Cordon,
    Offer,
    OfferNoted,
    Publish,
    PublishPlan,
    PublishResult,
    SyncRequested,
    UpdateWeights,
    WeightReaders,
    WeightsApplied,
)

PROTOCOL_VERSION = 6
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
    capacity: Number = 0  # actor: rollouts that it can work on at once, at most
    # learner: the policy version that it starts from; actor and relay: of the weights that it holds
    version: Claim = -1
    # learner: of the checkpoint that it resumes, -1 for a fresh start; actor and relay: of the weights that it holds
    generation: Claim = -1
    stage: Number = 0  # learner: index of the stage that it is in
    # actor: how weights reach it, a name in common/weights/transports.py or "pull"; learner: "pull" if it never publishes
    transport: Word = "collective"
    # relay, or actor that serves: where others pull from it
    serves: WeightSource | None = None
    pool: Word = ""  # actor: the pool of the configuration that it is started in, if any


class Alive(Answer, frozen=True):
    """The answer to a Heartbeat, and to any message of a client that the buffer does not know."""

    durable_first = False

    known: bool  # False: say Hello again (the buffer restarted, or gave the client up)
    heartbeat_s: float = 0.0  # the pause from now on: with thousands of clients it is longer; 0: as it was


class Heartbeat(Question[Alive], frozen=True):
    """Sent every `heartbeat_s`, as the last Welcome or Alive said."""

    # cumulative since the client started: seconds, tokens, counts
    stats: Annotated[dict[Word, float], FEW] = msgspec.field(default_factory=dict)
    # actor: rollouts that its engine has use for at once now, at most `Hello.capacity`; None: as many as that
    room: Number | None = None


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
    evidence: StepEvidence | None = None


class CheckpointSaved(OfGeneration, frozen=True):
    """A checkpoint of `version` is durable: batches before it need not be served again."""

    version: Number


class LearnerPace(msgspec.Struct, frozen=True, kw_only=True):
    """How the learner gets on, as the buffer knows it: means over its last `num_steps` steps."""

    batch_groups: int  # of a step
    waits_s: float  # how long it has waited for its batch by now; below 0: it waits for none
    num_steps: int = 0
    step_s: float = 0.0  # from one step's end to the next
    wait_s: float = 0.0  # of it, waiting for the batch
    held_s: float = 0.0  # of that, while eta alone held work back
    ess: float = 0.0
    kl: float = 0.0


class Status(Answer, frozen=True):
    """The state of a run, as `prolong status` prints it."""

    durable_first = False

    run: str
    generation: int
    version: int
    steps: int
    ledger: dict[str, int]  # one count per ticket state, and "total"
    balanced: bool
    # name -> role, state, version, leases, silence_s, stats; of thousands, those that something is wrong with and a few others
    peers: dict[str, dict[str, float | str]]
    counters: dict[str, int]  # rejected frames, duplicates, lost leases, ...
    validation: list[ValidationScore]
    eta: int = 0  # of the tickets that are issued now
    eta_why: str = ""  # the reason of its last change, empty before the first
    # the tickets that hold up the next batch, whose they are and why, as a sentence; empty: none in particular
    waits_for: str = ""
    num_peers: int = 0  # clients that are connected
    pace: LearnerPace | None = None


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

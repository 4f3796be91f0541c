"""Who says what to whom, through the buffer's one socket.

Clients (actors, learners, observers) speak to the buffer only; only weights flow beside it.

    actor    Hello -> Welcome | Refused        GroupResult -> GroupAck      TicketReturned      WeightsApplied      Heartbeat
             Leave      <- Tickets   <- UpdateWeights   <- Stop
    learner  Hello -> Welcome | Refused        TakeBatch -> BatchReady        StepDone   CheckpointSaved   Heartbeat
             Publish -> PublishPlan -> PublishResult      <- SyncRequested      Finish -> Finished      <- Stop
    observer StatusRequest -> Status       RequestReset -> ResetNoted
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec

from .types import FEW, MANY, Batch, Group, Manifest, Number, Text, Ticket, ValidationScore, Word

PROTOCOL_VERSION = 3
Claim = Annotated[int, msgspec.Meta(ge=-1, le=1 << 32)]  # so far below the largest Number that a run can go on from it


class Role(StrEnum):
    """What a client is."""

    actor = "actor"
    learner = "learner"
    observer = "observer"


class _Message(msgspec.Struct, frozen=True, kw_only=True, tag=True, forbid_unknown_fields=True):
    pass


# --- client -> buffer -------------------------------------------------------------------------------------------------


class Hello(_Message, frozen=True, forbid_unknown_fields=False):
    """First message of a client, and again after a silence longer than the lease. A newer protocol's is read, and refused."""

    role: Role
    name: Word  # unique among the living: "actor-0"
    protocol: Number
    tokenizer: Word  # fingerprint (common/tokenizer.py)
    host: Word
    pid: Number
    capacity: Number = 0  # actor: rollouts that it can work on at once
    version: Claim = -1  # learner: the policy version that it starts from
    generation: Claim = -1  # learner: of the checkpoint that it resumes; -1 for a fresh start
    stage: Number = 0  # learner: index of the stage that it is in


class Heartbeat(_Message, frozen=True):
    """Sent every `heartbeat_s`; numbers are cumulative since the client started (seconds, tokens, counts)."""

    stats: Annotated[dict[Word, float], FEW] = {}


class GroupResult(_Message, frozen=True):
    """A finished group. The actor keeps it until it is acknowledged and sends it again after a reconnect."""

    group: Group


class TicketReturned(_Message, frozen=True):
    """The actor gives a ticket back without a group."""

    ordinal: Number
    reason: Text


class Leave(_Message, frozen=True):
    """The actor takes no more tickets and no more weights; what it holds it finishes or hands back."""

    reason: Text


class TakeBatch(_Message, frozen=True):
    """The learner at `version` waits for a batch."""

    generation: Number
    version: Number


class StepDone(_Message, frozen=True):
    """The batch of `version - 1` was trained: the learner is at `version` now, in stage `stage`."""

    generation: Number
    version: Number
    stage: Number = 0


class CheckpointSaved(_Message, frozen=True):
    """A checkpoint of `version` is durable: batches before it need not be served again."""

    generation: Number
    version: Number


class Publish(_Message, frozen=True):
    """The learner wants to broadcast the weights of `version`; its rank 0 serves the TCPStore."""

    generation: Number
    version: Number
    store_host: Word
    store_port: Number
    manifest: Manifest
    # how long one phase may take: the join, each bucket, the acknowledgement; 0: weights.timeout_s
    phase_timeout_s: float = 0.0
    given_up: Number = -1  # epoch of the broadcast that the learner waits for no longer: who did not answer is absent


class WeightsApplied(_Message, frozen=True):
    """An actor holds these weights (or failed to: `error`). `checksums` has one number per bucket, of what was received."""

    generation: Number
    version: Number
    epoch: Number
    checksums: Annotated[list[int], MANY]
    seconds: float
    error: Text = ""


class Cordon(_Message, frozen=True):
    """The learner found these actors to have other weights than were sent: they must be sent again."""

    epoch: Number
    names: Annotated[list[Word], MANY]


class Finish(_Message, frozen=True):
    """The learner made its last version; validation of it may still be under way."""

    generation: Number
    version: Number


class StatusRequest(_Message, frozen=True):
    """Anybody may ask."""


class RequestReset(_Message, frozen=True):
    """Anybody may ask for a reset of the reference; it goes out with the next batch that is formed."""


FromClient = (
    Hello
    | Heartbeat
    | GroupResult
    | TicketReturned
    | Leave
    | TakeBatch
    | StepDone
    | CheckpointSaved
    | Publish
    | WeightsApplied
    | Cordon
    | Finish
    | StatusRequest
    | RequestReset
)


# --- buffer -> client -------------------------------------------------------------------------------------------------


class Welcome(_Message, frozen=True):
    """The client is in."""

    generation: int  # the learner stores it in its checkpoints
    heartbeat_s: float
    lease_s: float  # silence after which a peer counts as gone
    version: int  # of the learner, as the buffer knows it; -1 before the first


class Refused(_Message, frozen=True, forbid_unknown_fields=False):
    """The client is not let in; `reason` is a sentence that says what to do."""

    reason: str
    retry: bool = (
        False  # the client should ask again until its own deadline (the name is still taken by a peer that may be dead)
    )


class Alive(_Message, frozen=True):
    """The answer to a Heartbeat. `known` False: say Hello again (the buffer restarted, or gave the client up)."""

    known: bool


class Tickets(_Message, frozen=True):
    """Work for an actor."""

    tickets: list[Ticket]


class GroupAck(_Message, frozen=True):
    """The group is the buffer's now. `accepted` is False for duplicates, dead timelines and unknown tickets."""

    ordinal: int
    accepted: bool
    reason: str = ""


class BatchReady(_Message, frozen=True):
    """The answer to TakeBatch, when the contract allows one."""

    batch: Batch


class PublishPlan(_Message, frozen=True):
    """Who takes part: rank 0 is the learner, rank i + 1 is members[i]. No members: nothing to send."""

    epoch: int
    version: int
    members: list[str]


class UpdateWeights(_Message, frozen=True):
    """To an actor: join the group of `epoch` (if not in it yet) and receive `version`."""

    generation: int
    version: int
    epoch: int
    rank: int
    world_size: int
    store_host: str
    store_port: int
    manifest: Manifest
    phase_timeout_s: float = 0.0  # of its Publish


class PublishResult(_Message, frozen=True):
    """To the learner: every member has acknowledged, failed, or missed the deadline."""

    epoch: int
    version: int
    checksums: dict[str, list[int]]  # of those that applied
    failed: dict[str, str]  # name -> why


class SyncRequested(_Message, frozen=True):
    """To the learner: an actor waits for weights; publish the current version again."""

    reason: str


class Status(_Message, frozen=True):
    """Everything that `prolong status` prints."""

    run: str
    generation: int
    version: int
    steps: int
    ledger: dict[str, int]  # one count per ticket state, and "total"
    balanced: bool
    peers: dict[str, dict[str, float | str]]  # name -> role, state, version, leases, silence_s, stats
    counters: dict[str, int]  # rejected frames, duplicates, lost leases, ...
    validation: list[ValidationScore]


class ResetNoted(_Message, frozen=True):
    """The answer to RequestReset: it will be part of the batch of this version."""

    version: int


class Finished(_Message, frozen=True):
    """To the learner: the last validation is in; this is the end of the run."""

    status: Status


class Stop(_Message, frozen=True):
    """To everybody: the run is over, or cannot go on (`failed`)."""

    reason: str
    failed: bool = False


FromBuffer = (
    Welcome
    | Refused
    | Alive
    | Tickets
    | GroupAck
    | BatchReady
    | PublishPlan
    | UpdateWeights
    | PublishResult
    | SyncRequested
    | Status
    | ResetNoted
    | Finished
    | Stop
)

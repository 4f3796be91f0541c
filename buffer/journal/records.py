"""The records of the journal. Keys are a letter and a number (8 bytes, big-endian, so that they sort).

    n          BufferState, the newest      s VERSION  BufferState that belongs to the checkpoint of VERSION
    t ORDINAL  TicketRecord, under way      g ORDINAL  the GroupResult frame of a group: stored, batched or trained;
                                                       on a disk it lies in the group log, and here its place (group_log.py)
    b VERSION  BatchRecord                  m NUMBER   list of the ledger's moves, the first of which has this number
    w          SweepRecords under way       e          validation scores
    q NUMBER   a prompt that waits to be issued again: uid and next attempt
    a VERSION  EtaRecord: what was decided of eta when the learner had made VERSION
    c NUMBER   PlanRecord of a curriculum    o NUMBER  list of Observations, the first of which has this number
    k NUMBER   PlanOutline of one that no checkpoint needs any more
    f          number of this format

Every value begins with its CRC-32, except the frame of a group, which has a checksum of its own. Format 2 had the frames of
groups in LMDB; it is read, and becomes 3 with the next commit.
"""

from __future__ import annotations

from typing import NamedTuple, TypeVar

import msgspec
from isal.isal_zlib import crc32

from ...common.config.curriculum import CurriculumConfig
from ...common.config.sections import AdaptiveConfig
from ...common.errors import ConfigError, JournalError
from ...common.types import Sampling, Ticket, ValidationScore, ValidationSetting

FORMAT = 3
READABLE_FORMATS = (2, FORMAT)
TICKET, GROUP, BATCH, STATE, MOVES, ETA, RETRY = b"t", b"g", b"b", b"s", b"m", b"a", b"q"
PLAN, SEEN, OUTLINE = b"c", b"o", b"k"
NEWEST, SWEEPS, SCORES, FORMAT_KEY = b"n", b"w", b"e", b"f"
CRC_BYTES = 4
LARGEST = 1e300  # number of a step's evidence

T = TypeVar("T")


class PromptCursor(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The position of a source of prompts; see tickets/api.py."""

    credits: list[float]  # of a mixture's weighted round-robin, one for each file
    drawn: list[int]  # of a mixture: prompts drawn so far, one for each file
    position: str = ""  # of any other source, in a form of its own


class EtaEvidence(msgspec.Struct, frozen=True, kw_only=True):
    """The numbers of one step that say whether eta should be another one."""

    version: int  # that the step made
    ess: float  # effective sample size, as a share of the tokens
    kl: float  # KL(behaviour, policy), nats per token
    wait_s: float  # that the learner waited for the batch
    step_s: float  # of the whole step, waiting included
    held_s: float  # of the waiting, while a larger eta would have given an actor a ticket, or the learner a batch

    @property
    def held_share(self) -> float:
        """The share of the step in which eta held work back; no more than the learner waited."""
        return min(self.held_s, self.wait_s) / self.step_s

    @property
    def is_finite(self) -> bool:
        """Whether the numbers mean something, and those of a window can be added up."""
        numbers = (self.ess, self.kl, self.wait_s, self.step_s, self.held_s)
        return all(abs(number) <= LARGEST for number in numbers) and self.step_s > 0


class EtaState(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a decision about eta depends on, besides the evidence of its step; see tickets/adaptive.py."""

    eta: int  # of tickets that are issued now
    begun: int = 0  # the version at which this chain of decisions began
    version: int = 0  # the last one whose evidence was read
    settled: int = 0  # evidence up to this version is that of an earlier eta
    window: list[EtaEvidence] = []  # the last ones since
    trial: int = 0  # the last change, if it is on trial: by how much
    held: float = 0.0  # the share of time that was held back before it
    failed: int = 0  # changes that were undone or forced
    resting: int = 0  # before this version eta is raised to `ceiling` at most, and no smaller one is tried
    ceiling: int = 0


class EtaRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A decision, with all that it was made from."""

    evidence: EtaEvidence
    rules: AdaptiveConfig
    state: EtaState  # before it
    eta: int  # after it
    law: int = 0  # number of the rules by which it was made (tickets/adaptive.py)
    why: str = ""  # empty: eta stayed as it was


class Observation(NamedTuple):
    """What the rollouts of one group earned; see tickets/curriculum.py."""

    uid: str  # of the prompt
    rollouts: int
    reward: float  # their sum


class Known(NamedTuple):
    """What is known of a prompt: so many rollouts, fading with time, and the sum of their rewards."""

    rollouts: float
    reward: float


class SweepNote(NamedTuple):
    """The mean score of a validation sweep."""

    version: int
    score: float


class PlanOutline(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A plan of a curriculum without what it knows, which follows from this, the observations and the plan before it."""

    number: int  # from 1
    law: int  # number of the rules by which it was made
    version: int  # that the learner had made
    generation: int
    why: str = ""
    rules: CurriculumConfig
    num_observations: int  # of the run, before this plan
    sweeps: list[SweepNote] = []  # since the plan before it
    best: float = -1.0  # score that the plans of this generation heard of
    since: int = 0  # sweeps since then that were not better, or since the last plateau
    heard: int = -1  # version of the newest sweep that a plan of this generation heard of


class PlanRecord(PlanOutline, frozen=True, kw_only=True, omit_defaults=True):
    """A plan, with all that it was made from."""

    known: dict[str, Known]  # by uid

    @property
    def outline(self) -> PlanOutline:
        """Some hundred bytes, where the plan has tens for each prompt."""
        return PlanOutline(**{name: getattr(self, name) for name in PlanOutline.__struct_fields__})


class BufferState(msgspec.Struct, frozen=True, kw_only=True):
    """All that a restarted buffer must know and no other record says."""

    generation: int = 0
    version: int = 0  # of the learner
    head: int = 0  # version of the next batch to be formed
    epoch: int = 0  # of the weights' membership
    ledger: dict[str, int]  # count per ticket state
    num_moves: int = 0  # of the ledger so far
    next_ordinal: int = 0
    cursor: PromptCursor
    # in the state of a checkpoint, and in any of format 2: uids of prompts that are to be issued again, and their next attempt
    retries: list[tuple[str, int]] = []
    # uids of prompts after the cursor that were issued already, ahead of others
    skips: list[str] = []
    # in the state of a checkpoint: uids of prompts whose tickets were untrained, with their attempt
    under_way: list[tuple[str, int]] = []
    filtered: int = 0  # groups without signal since the last batch
    reported: int = 0  # validation scores that went out with a batch
    checkpoints: list[int] = []  # versions of the retained checkpoints, ascending
    stage: int = 0
    reset_requested: bool = False  # the next batch to be formed asks for a reset of the reference
    counters: dict[str, int] = {}
    eta: EtaState | None = None  # None: it does not adapt


class TicketRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A ticket that an actor works on, that waits for another actor, or whose group is stored."""

    ticket: Ticket
    attempt: int
    actor: str  # empty for one that waits
    waits: bool = False  # its actor left, and handed over what the ticket holds


class BatchRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A batch; its groups are records of their own."""

    generation: int
    version: int
    ordinals: list[int]  # in order
    validation: list[ValidationScore]
    reset_requested: bool
    metrics: dict[str, float]


class SweepRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A validation sweep under way. Prompts by uid, with their attempt."""

    version: int
    setting: ValidationSetting
    sampling: Sampling
    blocks: bool
    queue: list[tuple[str, int]]
    leased: dict[int, tuple[str, int]]  # by ordinal
    uids: list[str]
    rewards: dict[str, list[float]]
    versions: list[int]


class Move(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A move of the ledger. States are indices into TicketState, -1 for a ticket that was not issued before.

    Ordinal -1 stands for `count` tickets without names.
    """

    ordinal: int
    from_state: int
    to_state: int
    count: int = 1


def plan_number(cursor: PromptCursor) -> int:
    """The plan of a curriculum that a cursor was read under; 0 for one of a source without plans."""
    word, _, number = cursor.position.partition(" ")
    return int(number) if word == "plan" and number.isdecimal() else 0


def key(kind: bytes, number: int) -> bytes:
    """The key of a numbered record."""
    return kind + number.to_bytes(8, "big")


def number_of(numbered: bytes) -> int:
    """The number in a key."""
    return int.from_bytes(numbered[1:], "big")


def pack_record(record: object) -> bytes:
    """A record as a value: its checksum, then MessagePack."""
    payload = msgspec.msgpack.encode(record)
    return crc32(payload).to_bytes(CRC_BYTES, "big") + payload


def unpack_record(value: bytes, kind: type[T], where: str) -> T:
    """The record of a value. Raises JournalError naming `where` it was."""
    payload = memoryview(value)[CRC_BYTES:]
    if len(value) < CRC_BYTES or crc32(payload) != int.from_bytes(value[:CRC_BYTES], "big"):
        raise JournalError(f"{where}: {len(value)} bytes whose checksum is wrong; the disk lost or changed some")
    try:
        return msgspec.msgpack.decode(payload, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, ConfigError) as error:
        raise JournalError(f"{where} does not decode: {error}; another version of prolong wrote it") from error

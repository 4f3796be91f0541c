"""The data types of prolong: prompt, ticket, rollout, group, batch, and the layout of a weight update.

Each value that crosses a process boundary is one of these, or a message of `messages.py` that carries them.
Arrays travel as raw little-endian bytes, because a list of a thousand integers takes 7-50 us to encode and a buffer 1-3 us;
`int32_array` and `float32_array` view them without a copy.

    prompt --issue--> ticket --generate, verify--> group of rollouts --select--> batch
    produced by: buffer        buffer                actor                     buffer
    consumed by: buffer        actor                 buffer                    learner
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import msgspec
import numpy as np

# Limits of fields, checked when a frame is decoded, before memory is allocated: a list of small items would take forty times
# the memory of its frame, and a number near 2**64 would not fit into a message any more once something was added to it.
Number = Annotated[int, msgspec.Meta(ge=-(1 << 53), le=1 << 53)]
Word = Annotated[str, msgspec.Meta(max_length=256)]  # a name, a host
Text = Annotated[str, msgspec.Meta(max_length=65_536)]  # a reason, for a person
MANY = msgspec.Meta(max_length=65_536)  # items
FEW = msgspec.Meta(max_length=256)  # items in each of many
# characters of a verdict's detail: verifiers cut longer ones, and the buffer refuses them
MAX_DETAIL = 10_000


if TYPE_CHECKING:
    View = bytes
else:
    View = memoryview  # decoded without a copy: it keeps its frame in memory
_NO_TOKENS = View(b"")


class TicketKind(StrEnum):
    """The purpose of a ticket. Validation tickets are outside admission and are never trained on."""

    train = "train"
    validation = "validation"


class FinishReason(StrEnum):
    """Why a rollout ended."""

    stop = "stop"  # the model produced an end token
    length = "length"  # it reached its token limit
    abort = "abort"  # it was given up


class TicketState(StrEnum):
    """The state of a ticket: issued <-> leased -> stored -> batched -> trained, or one of the last three."""

    issued = "issued"  # permitted, in no actor's hands: not yet, or since an actor that left handed it over
    leased = "leased"  # an actor generates it, until its lease ends
    stored = "stored"  # its group waits in the buffer
    batched = "batched"  # its group was handed to the learner
    trained = "trained"  # the learner made a policy version with it
    filtered = "filtered"  # its group carried no signal
    stale = "stale"  # its group was too old to train, or of a dead generation
    failed = "failed"  # the actor died, hung or gave up


class VerdictStatus(StrEnum):
    """How a verification ended."""

    ok = "ok"  # the verifier read the answer and gave a reward
    no_answer = "no_answer"  # the completion contains no answer
    truncated = "truncated"  # the completion reached its token limit, and contains no answer
    timeout = "timeout"  # the verifier took too long: no reward
    crash = "crash"  # the verifier died or raised: no reward
    input_rejected = "input_rejected"  # the verifier cannot judge a completion like this: reward 0
    custom = "custom"  # a status of a user's verifier that is none of the others

    @classmethod
    def _missing_(cls, value: object) -> VerdictStatus | None:
        """Journals may hold texts that a user's verifier chose."""
        return cls.custom if isinstance(value, str) else None


class ValidationSetting(StrEnum):
    """How the rollouts of a validation sweep are sampled."""

    sampled = "sampled"  # at `validation.temperature`, `validation.n` rollouts per prompt
    greedy = "greedy"  # at temperature 0, one rollout per prompt
    none = ""  # of a training ticket, which belongs to no sweep


# The garbage collector does not look at values of messages (gc=False): there may be millions, and they are in no cycle.
class Prompt(msgspec.Struct, frozen=True, gc=False, kw_only=True, forbid_unknown_fields=True):
    """One task instance.

    Example: Prompt(uid="math/addition/17", domain="math", task="addition", text="347+585=?", token_ids=b"...",
                    verifier="math", answer='{"answer": "932"}')
    """

    uid: str  # unique and stable in a run: names the source and the line in it
    domain: str  # "math", "logic": rewards are reported per domain
    task: str  # a finer name inside the domain
    text: str  # the tokenized text, after the chat template
    token_ids: bytes  # [P] int32
    verifier: str  # a name in verifiers/registry.py
    answer: str = "{}"  # a JSON object for the verifier


class Sampling(msgspec.Struct, frozen=True, gc=False, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """How the rollouts of a ticket are drawn. temperature 0 is greedy."""

    n: Number  # rollouts in the group
    temperature: float
    top_p: float
    max_tokens: Number  # new tokens a rollout may have
    top_k: Number = 0  # 0: off
    min_p: float = 0.0  # 0: off
    # a rollout ends with the token that completes one of these texts
    stop: Annotated[tuple[Word, ...], FEW] = ()

    @property
    def is_cut(self) -> bool:
        """Whether tokens are drawn from a part of the distribution only, renormalised."""
        return self.temperature > 0 and (self.top_p < 1 or self.top_k > 0 or self.min_p > 0)


class Ticket(msgspec.Struct, frozen=True, gc=False, kw_only=True, forbid_unknown_fields=True):
    """Permission to generate one group for one prompt."""

    ordinal: Number  # unique over the run, in order of issue
    kind: TicketKind
    prompt: Prompt
    sampling: Sampling
    seed: Number  # rollout i samples with `rollout_seed(ticket.seed, i)`
    generation: Number  # fencing token: goes up when a learner starts again from an older state
    version: Number  # policy version that the actor held when the ticket was issued
    # bound on the staleness of its group, as it was when the ticket was issued; None: recorded before tickets had one
    eta: Number | None = None
    lease_s: float  # seconds after issue at which an unfinished ticket counts as lost
    setting: ValidationSetting = ValidationSetting.none
    # by actors that left: their rollouts go on from there
    started: Annotated[list[StartedRollout], msgspec.Meta(max_length=1_024)] = []

    def unfinished(self) -> dict[int, View]:
        """The rollouts that have not ended, by index, each with the token ids [T] int32 that it has so far."""
        begun = {rollout.index: rollout for rollout in self.started}
        ended = {index for index, rollout in begun.items() if rollout.finish_reason is not None}
        left = [index for index in range(self.sampling.n) if index not in ended]
        return {index: begun[index].token_ids if index in begun else _NO_TOKENS for index in left}

    @property
    def num_started_tokens(self) -> int:
        """Tokens that earlier actors sampled."""
        return sum(rollout.num_tokens for rollout in self.started)


class VersionSpan(msgspec.Struct, frozen=True, gc=False, kw_only=True, array_like=True, forbid_unknown_fields=True):
    """Completion tokens [start, end) were sampled by policy `version`."""

    version: Number
    start: Number
    end: Number
    actor: Word = ""  # who sampled them; empty: the actor of the group


class Verdict(msgspec.Struct, frozen=True, gc=False, kw_only=True, forbid_unknown_fields=True):
    """A verifier's judgement of one completion."""

    reward: float | None  # None when the verifier itself failed: never a silent 0
    status: VerdictStatus
    verifier: str
    seconds: float  # time inside the verifier
    detail: str = ""  # one line for a person, at most MAX_DETAIL characters
    metrics: Annotated[dict[str, float], FEW] = {}


class Rollout(msgspec.Struct, frozen=True, gc=False, kw_only=True, forbid_unknown_fields=True):
    """One sampled completion, its log-probabilities under the sampler, and its verdict."""

    token_ids: View  # [T] int32, without the prompt
    behaviour_logprobs: View  # [T] float32, of the tempered distribution that was sampled from
    spans: Annotated[list[VersionSpan], FEW]  # cover [0, T) without gap or overlap, in order of tokens
    finish_reason: FinishReason
    verdict: Verdict

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids) // 4

    @property
    def oldest_version(self) -> int:
        """The version of the oldest token; every rollout has at least one span."""
        return min(span.version for span in self.spans)


class StartedRollout(msgspec.Struct, frozen=True, gc=False, kw_only=True, forbid_unknown_fields=True):
    """What an actor that left had of a rollout. Its spans name the actors that sampled them."""

    index: Number  # in the group
    token_ids: View  # [T] int32, T >= 1
    behaviour_logprobs: View  # [T] float32
    spans: Annotated[list[VersionSpan], FEW]  # as in Rollout
    finish_reason: FinishReason | None = None  # None: it had not ended
    verdict: Verdict | None = None  # None: it had not been judged

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids) // 4


class Group(msgspec.Struct, frozen=True, gc=False, kw_only=True, forbid_unknown_fields=True):
    """The scored rollouts of one ticket, in the order of their seeds (dropped ones left out)."""

    ordinal: Number  # of the ticket
    kind: TicketKind
    generation: Number
    prompt: Prompt
    setting: ValidationSetting
    sampling: Sampling  # of the ticket
    eta: Number | None = None  # of the ticket
    rollouts: Annotated[list[Rollout], msgspec.Meta(max_length=1_024)]
    actor: str  # name of the actor
    seconds: float  # from the ticket's arrival at the actor to the last verdict
    dropped_rollouts: Number = 0  # verdict None after the retry

    @classmethod
    def for_ticket(
        cls, ticket: Ticket, rollouts: list[Rollout], *, actor: str, seconds: float, dropped_rollouts: int = 0
    ) -> Group:
        """The group of `ticket`, with the ticket's own fields copied."""
        return cls(
            ordinal=ticket.ordinal,
            kind=ticket.kind,
            generation=ticket.generation,
            prompt=ticket.prompt,
            setting=ticket.setting,
            sampling=ticket.sampling,
            eta=ticket.eta,
            rollouts=rollouts,
            actor=actor,
            seconds=seconds,
            dropped_rollouts=dropped_rollouts,
        )

    def allowed_staleness(self, most: int) -> int:
        """The staleness at which it may be trained, `most` if its ticket does not say."""
        return most if self.eta is None else self.eta

    @property
    def oldest_version(self) -> int:
        return min(span.version for rollout in self.rollouts for span in rollout.spans)

    @property
    def newest_version(self) -> int:
        return max(span.version for rollout in self.rollouts for span in rollout.spans)


class ValidationScore(msgspec.Struct, frozen=True, kw_only=True):
    """One sweep of the held-out prompts under one sampling setting."""

    version: Number  # policy version that the sweep was started for
    versions: list[int]  # the versions that actually produced its tokens, ascending
    setting: ValidationSetting
    by_task: dict[str, float]  # "domain/task" -> mean reward
    mean: float  # over tasks, each with the same weight
    num_rollouts: int


class StepEvidence(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a learner's step says of the staleness of its batch."""

    ess: float  # policy/ess: effective sample size, as a share of the tokens
    kl: float  # KL(behaviour, policy), nats per token
    wait_s: float  # that the learner waited for the batch
    step_s: float  # since the last step ended, waiting included


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """B groups for the learner step that turns `version` into `version + 1`."""

    generation: Number
    version: Number
    groups: list[Group]
    validation: list[ValidationScore] = []  # finished since the last batch
    # a reset of the reference was requested (`prolong reset`) since the last batch
    reset_requested: bool = False
    metrics: dict[str, float] = {}  # of the buffer and the actors, for this step


class TensorSpec(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """The place of one tensor in its bucket."""

    name: Word
    dtype: Word  # "float32", "bfloat16", ...
    shape: Annotated[list[Number], FEW]
    offset: Number  # bytes, a multiple of 16


class BucketSpec(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """One flat uint8 buffer of a weight broadcast."""

    num_bytes: Number
    tensors: Annotated[list[TensorSpec], MANY]


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """The buckets of a weight broadcast, in order."""

    buckets: Annotated[list[BucketSpec], MANY]


class Rendezvous(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where actors find a learner's weights. Only the named transport reads the address; others compare for equality alone.

    Example: Rendezvous(transport="collective", address=b"\x82\xa4host...")
    """

    transport: Word  # a name in common/weights/transports.py
    address: Annotated[bytes, msgspec.Meta(max_length=1024)]  # the transport's own encoding


class WeightSource(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A socket that weights can be pulled from: of the learner, of a relay, or of an actor that serves what it holds."""

    # as others reach it; nothing but TCP: whoever pulls connects to what it is told
    endpoint: Annotated[str, msgspec.Meta(max_length=256, pattern=r"^tcp://[^/\s]+:[0-9]{1,5}$")]
    key: Annotated[str, msgspec.Meta(max_length=40)] = ""  # its public CURVE key (Z85); empty: frames are not encrypted


PULL = "pull"  # names the way of weights that each process fetches for itself, in `weights.transport` and on the wire


class PullAddress(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`Rendezvous.address` of the transport `pull`, as MessagePack."""

    # SHA-256 of the encoded catalog of this version: it proves every chunk, whoever serves it
    catalog: Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
    # where to ask, the best one first; the learner is the last
    sources: Annotated[list[WeightSource], msgspec.Meta(min_length=1, max_length=4)]


def int32_array(buffer: bytes) -> np.ndarray:
    """Read-only int32 view of a wire buffer."""
    return np.frombuffer(buffer, dtype="<i4")


def float32_array(buffer: bytes) -> np.ndarray:
    """Read-only float32 view of a wire buffer."""
    return np.frombuffer(buffer, dtype="<f4")


def rollout_seed(ticket_seed: int, index: int) -> int:
    """The seed of rollout `index` of a ticket. With one seed for all tickets, prompts would share their noise.

    Seeds are consecutive within a ticket, because vLLM gives child i of a request the request's seed + i, and far apart between
    tickets.
    """
    return (int(np.random.SeedSequence([ticket_seed]).generate_state(1)[0]) & 0x7FFFFFFF) + index

"""Packing: from scored groups to micro-batches of about `token_budget` tokens, without padding where that is possible.

    groups -> samples (one per rollout) -> families (rollouts of one prompt) -> ranks -> micro-batches

The longest item goes first, each into the fullest micro-batch where it still fits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from enum import Enum
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from ...common.logprobs import predictors
from .documents import DocumentPlan, plan_documents

# least length of a row: dense masks make attention quadratic in the length, while short rows leave gaps
ROW_TOKENS = 128

T = TypeVar("T")


class PackingLayout(Enum):
    """How a micro-batch lays out its tokens. The attention implementation decides it (model/policy.py: layout_of).

    Rows hold whole (prompt, completion) documents, and position_ids restart at 0 in each. The restart is how transformers
    detects packed rows, and only with attention_mask=None and use_cache=False, which policy.py guards.
    """

    # one flat row: the prompt of each family once, then its completions (attention.py)
    documents = "documents"
    # several rows of documents, for dense masks
    rows = "rows"
    # one long row of documents, for flash attention
    flat = "flat"
    # one document a row, padded at its end, for models in which packed documents would see each other
    separate = "separate"


@dataclass(slots=True)
class Sample:
    """One rollout in the form that the learner trains on. Tokens with keep False are context only."""

    # the group's ordinal
    group: int
    prompt: np.ndarray  # [P] int32
    completion: np.ndarray  # [T] int32
    behaviour: np.ndarray  # [T] float32, tempered log-probabilities of the sampler
    keep: np.ndarray  # [T] bool
    # [T] int32, versions between the token's sampler and the policy at the batch's start
    staleness: np.ndarray
    temperature: float
    # after shaping
    reward: float
    advantage: float = 0.0
    # of each token in the loss: 1 / a global denominator
    weight: float = 0.0
    # [T] bool: sampler and policy must agree on the token (algorithm/agreement.py); by default those of staleness 0
    comparable: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=bool))

    def __post_init__(self) -> None:
        if not len(self.comparable):
            self.comparable = self.staleness == 0
        if not len(self.prompt) or not len(self.completion):
            raise ValueError(f"group {self.group}: an empty prompt or completion cannot be trained")


@dataclass(slots=True)
class MicroBatch:
    """The tokens of one forward and backward. M of them have a loss.

    The hidden state at `source`, an index into the flattened [R * L], predicts `target`.
    """

    input_ids: Tensor  # [R, L] int64
    position_ids: Tensor  # [R, L] int64
    # of the documents layout only
    plan: DocumentPlan | None
    source: Tensor  # [M] int64
    target: Tensor  # [M] int64
    behaviour: Tensor  # [M]
    advantage: Tensor  # [M]
    weight: Tensor  # [M]
    temperature: Tensor  # [M]
    # [M], of the same type as the log-probabilities
    staleness: Tensor
    # [M] bool: sampler and policy must agree on the token's log-probability (algorithm/agreement.py)
    comparable: Tensor
    # [M] int64, index of the token's rollout; every rollout of the micro-batch is whole in it
    rollout: Tensor
    num_rollouts: int
    # ordinals
    groups: list[int]
    # [M] log-probabilities under the proximal policy, once computed; None while it is the current policy
    proximal: Tensor | None = None
    # [M] log-probabilities under the reference; None without a KL term
    reference: Tensor | None = None

    def to(self, device: torch.device) -> MicroBatch:
        """Return the micro-batch on another device."""
        if device.type == "cpu":
            return self
        plan = None if self.plan is None else self.plan.to(device)
        moved = {f.name: value.to(device) for f in fields(self) if isinstance(value := getattr(self, f.name), Tensor)}
        return replace(self, plan=plan, **moved)


def best_fit(items: Sequence[T], size: Callable[[T], int], capacity: int) -> list[list[T]]:
    """Fill bins of at most `capacity`: longest items first, each into the fullest bin with room, oversized items alone."""
    bins: list[tuple[int, list[T]]] = []
    for item in sorted(items, key=size, reverse=True):
        need = size(item)
        room = [i for i, (filled, _) in enumerate(bins) if filled + need <= capacity]
        if room:
            at = max(room, key=lambda i: bins[i][0])
            bins[at] = (bins[at][0] + need, [*bins[at][1], item])
        else:
            bins.append((need, [item]))
    return [content for _, content in bins]


def balance(items: Sequence[T], size: Callable[[T], int], ranks: int) -> list[list[T]]:
    """Share items between ranks with about equal sums: longest first, each to the least loaded rank."""
    shares: list[list[T]] = [[] for _ in range(ranks)]
    loads = [0] * ranks
    for item in sorted(items, key=size, reverse=True):
        rank = loads.index(min(loads))
        shares[rank].append(item)
        loads[rank] += size(item)
    return shares


def pack(
    samples: list[Sample],
    *,
    token_budget: int,
    layout: PackingLayout,
    rank: int = 0,
    world_size: int = 1,
    dtype: torch.dtype = torch.float32,
) -> list[MicroBatch]:
    """Pack one update: this rank's micro-batches. Every rank gets the same number.

    A rank with less to do gets spare micro-batches, which repeat tokens with weight 0. The result is a function of the
    arguments alone, so that ranks agree without talking.
    """
    if layout is PackingLayout.documents:
        by_rank = _pack_documents(samples, token_budget, world_size, dtype)
    elif layout is PackingLayout.separate:
        by_rank = _pack_separate(samples, token_budget, world_size, dtype)
    else:
        by_rank = _pack_rows(samples, token_budget, layout, world_size, dtype)
    most = max(len(plan) for plan in by_rank)
    micros = [build() for build in by_rank[rank]]
    if len(micros) < most:
        build_spare = next(plan[0] for plan in by_rank if plan)
        spare = build_spare()
        micros += [replace(spare, weight=torch.zeros_like(spare.weight)) for _ in range(most - len(micros))]
    return micros


def _pack_documents(
    samples: list[Sample], token_budget: int, world_size: int, dtype: torch.dtype
) -> list[list[Callable[[], MicroBatch]]]:
    """For each rank, one builder per micro-batch: other ranks' micro-batches are planned but not built."""
    most_tokens = max(token_budget // world_size, 1) if world_size > 1 else token_budget
    shares = balance(_families(samples, most_tokens), family_tokens, world_size)
    plans = [best_fit(share, family_tokens, token_budget) for share in shares]
    return [[partial(_document_batch, families, dtype) for families in plan] for plan in plans]


def _pack_rows(
    samples: list[Sample], token_budget: int, layout: PackingLayout, world_size: int, dtype: torch.dtype
) -> list[list[Callable[[], MicroBatch]]]:
    """For each rank, one builder per micro-batch, as `_pack_documents`."""
    length, count = _row_shape(samples, token_budget, layout)
    rows = best_fit(samples, _document_tokens, length)
    shares = [rows[i::world_size] for i in range(world_size)]
    plans = [[share[i : i + count] for i in range(0, len(share), count)] for share in shares]
    return [[partial(_row_batch, content, dtype) for content in plan] for plan in plans]


def _pack_separate(
    samples: list[Sample], token_budget: int, world_size: int, dtype: torch.dtype
) -> list[list[Callable[[], MicroBatch]]]:
    """For each rank, one builder per micro-batch, as `_pack_documents`: documents of similar length, each a row."""
    micros: list[list[Sample]] = []
    for sample in sorted(samples, key=_document_tokens, reverse=True):
        if not micros or (len(micros[-1]) + 1) * _document_tokens(micros[-1][0]) > token_budget:
            micros.append([])
        micros[-1].append(sample)
    shares = [micros[i::world_size] for i in range(world_size)]
    return [[partial(_row_batch, [[one] for one in micro], dtype, one_document=True) for micro in share] for share in shares]


def family_tokens(family: list[Sample]) -> int:
    """Count the tokens of a family in the documents layout: its prompt once, then every completion."""
    return len(family[0].prompt) + sum(len(sample.completion) for sample in family)


def _document_tokens(sample: Sample) -> int:
    return len(sample.prompt) + len(sample.completion)


def _families(samples: list[Sample], token_budget: int) -> list[list[Sample]]:
    """Gather the samples of each group. A group over the budget is split, long completions first, into similar lengths."""
    groups: dict[int, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(sample.group, []).append(sample)
    families = []
    for members in groups.values():
        family: list[Sample] = []
        for sample in sorted(members, key=_document_tokens, reverse=True):
            if family and family_tokens(family) + len(sample.completion) > token_budget:
                families.append(family)
                family = []
            family.append(sample)
        families.append(family)
    return families


def _document_batch(families: list[list[Sample]], dtype: torch.dtype) -> MicroBatch:
    tokens, positions, documents, samples, sources = [], [], [], [], []
    cursor = 0
    for family in families:
        prompt = np.arange(cursor, cursor + len(family[0].prompt))
        tokens.append(family[0].prompt)
        positions.append(np.arange(len(prompt)))
        cursor += len(prompt)
        for sample in family:
            completion = np.arange(cursor, cursor + len(sample.completion))
            tokens.append(sample.completion)
            positions.append(np.arange(len(prompt), len(prompt) + len(completion)))
            cursor += len(completion)
            samples.append(sample)
            sources.append(predictors(prompt, completion))
            documents.append(np.concatenate((prompt, completion)))
    plan = plan_documents(documents, cursor)
    return _micro_batch(np.concatenate(tokens)[None], np.concatenate(positions)[None], plan, samples, sources, dtype)


def _row_shape(samples: list[Sample], token_budget: int, layout: PackingLayout) -> tuple[int, int]:
    """Return the tokens of a row and the rows of a micro-batch."""
    longest = max(_document_tokens(sample) for sample in samples)
    if layout is PackingLayout.flat:
        return max(token_budget, longest), 1
    length = max(ROW_TOKENS, -(-longest // 64) * 64)
    return length, max(1, token_budget // length)


def _row_batch(rows: list[list[Sample]], dtype: torch.dtype, *, one_document: bool = False) -> MicroBatch:
    """Lay out rows of documents. Padding at the end of a row counts as one more document, or lengthens its only one."""
    length = max(sum(map(_document_tokens, row)) for row in rows)
    input_ids = np.zeros((len(rows), length), dtype=np.int64)
    position_ids = np.zeros((len(rows), length), dtype=np.int64)
    samples, sources = [], []
    for r, row in enumerate(rows):
        cursor = 0
        for sample in row:
            end = cursor + _document_tokens(sample)
            input_ids[r, cursor:end] = np.concatenate((sample.prompt, sample.completion))
            position_ids[r, cursor:end] = np.arange(end - cursor)
            flat = r * length + np.arange(cursor, end)
            samples.append(sample)
            sources.append(predictors(flat[: len(sample.prompt)], flat[len(sample.prompt) :]))
            cursor = end
        position_ids[r, cursor:] = np.arange(length - cursor) + cursor * one_document
    return _micro_batch(input_ids, position_ids, None, samples, sources, dtype)


def _micro_batch(
    input_ids: np.ndarray,
    position_ids: np.ndarray,
    plan: DocumentPlan | None,
    samples: list[Sample],
    sources: list[np.ndarray],
    dtype: torch.dtype,
) -> MicroBatch:
    keep = np.concatenate([sample.keep for sample in samples])
    counts = [len(sample.completion) for sample in samples]

    def chosen(values: np.ndarray, kind: torch.dtype) -> Tensor:
        return torch.from_numpy(values[keep]).to(kind)

    def spread(values: list[float]) -> Tensor:
        return chosen(np.repeat(np.array(values, dtype=np.float64), counts), dtype)

    return MicroBatch(
        input_ids=torch.from_numpy(input_ids.astype(np.int64)),
        position_ids=torch.from_numpy(position_ids.astype(np.int64)),
        plan=plan,
        source=chosen(np.concatenate(sources), torch.int64),
        target=chosen(np.concatenate([sample.completion for sample in samples]), torch.int64),
        behaviour=chosen(np.concatenate([sample.behaviour for sample in samples]), dtype),
        advantage=spread([sample.advantage for sample in samples]),
        weight=spread([sample.weight for sample in samples]),
        temperature=spread([sample.temperature for sample in samples]),
        staleness=chosen(np.concatenate([sample.staleness for sample in samples]), dtype),
        comparable=chosen(np.concatenate([sample.comparable for sample in samples]), torch.bool),
        rollout=chosen(np.repeat(np.arange(len(samples)), counts), torch.int64),
        num_rollouts=len(samples),
        groups=list(dict.fromkeys(sample.group for sample in samples)),
    )

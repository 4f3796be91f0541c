"""Packing: from scored groups to micro-batches of about `token_budget` tokens, without padding where that is possible.

    groups -> samples (one per rollout) -> families (rollouts of one prompt) -> micro-batches of all ranks

One rank fills its micro-batches as far as it can. Several ranks share the work by its predicted cost (balance.py, cost.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from enum import Enum
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...common.logprobs import predictors
from ..context import ContextGroup
from .balance import best_fit, even_steps
from .cost import TOKENS, ForwardCost
from .documents import DocumentPlan, plan_documents
from .share import ContextShare, share_tokens

# least length of a row: dense masks make attention quadratic in the length, while short rows leave gaps
ROW_TOKENS = 128
# with several ranks, a micro-batch has room for so many families of the largest size: more even, but more prompts repeated
FAMILIES_AT_LEAST = 4


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
    # [num_rollouts] int64, the ordinal of each rollout's group
    group: Tensor
    # ordinals
    groups: list[int]
    # this rank's part of the tokens, if several ranks share them
    share: ContextShare | None = None
    # predicted cost of this micro-batch on the rank where it is highest, and on average over ranks (cost.py)
    highest_cost: float = 0.0
    mean_cost: float = 0.0
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
        share = None if self.share is None else self.share.to(device)
        return replace(self, plan=plan, share=share, **moved)

    def shared(self, group: ContextGroup) -> MicroBatch:
        """Return the micro-batch for a rank that works on it together with others. Its tokens must be on the CPU."""
        assert self.plan is not None, "only documents are shared by ranks"
        share = share_tokens(
            group,
            input_ids=self.input_ids,
            position_ids=self.position_ids,
            plan=self.plan,
            source=self.source,
            target=self.target,
            temperature=self.temperature,
        )
        return replace(self, share=share)


class _Plan(NamedTuple):
    """A micro-batch that is not built yet: other ranks' micro-batches never are."""

    cost: float
    build: Callable[[], MicroBatch]


def pack(
    samples: list[Sample],
    *,
    token_budget: int,
    layout: PackingLayout,
    rank: int = 0,
    world_size: int = 1,
    dtype: torch.dtype = torch.float32,
    cost: ForwardCost = TOKENS,
) -> list[MicroBatch]:
    """Pack one update: this rank's micro-batches. Every rank gets the same number.

    A rank with less to do gets spare micro-batches, which repeat tokens with weight 0. The result is a function of the
    arguments alone, so that ranks agree without talking.
    """
    if layout is PackingLayout.documents:
        steps = _pack_documents(samples, token_budget, world_size, dtype, cost)
    elif layout is PackingLayout.separate:
        steps = _pack_separate(samples, token_budget, world_size, dtype, cost)
    else:
        steps = _pack_rows(samples, token_budget, layout, world_size, dtype, cost)
    spare = min((plan for step in steps for plan in step), key=lambda plan: plan.cost)
    micros = []
    for step in steps:
        costs = [plan.cost for plan in step] + [spare.cost] * (world_size > len(step))
        micro = step[rank].build() if rank < len(step) else _without_weight(spare.build())
        micros.append(replace(micro, highest_cost=max(costs), mean_cost=sum(plan.cost for plan in step) / world_size))
    return micros


def rank_imbalance(micros: list[MicroBatch]) -> float:
    """Predict how much longer an update takes than with its work shared evenly: 1 if no rank waits for another."""
    return sum(micro.highest_cost for micro in micros) / max(sum(micro.mean_cost for micro in micros), 1e-30)


def _without_weight(micro: MicroBatch) -> MicroBatch:
    return replace(micro, weight=torch.zeros_like(micro.weight))


def _pack_documents(
    samples: list[Sample], token_budget: int, world_size: int, dtype: torch.dtype, cost: ForwardCost
) -> list[list[_Plan]]:
    """For each step, the micro-batches of the ranks from 0 on; the last ranks may have none."""

    def plan(families: list[list[Sample]]) -> _Plan:
        return _Plan(sum(family_cost(family, cost) for family in families), partial(_document_batch, families, dtype))

    if world_size == 1:
        return [[plan(families)] for families in best_fit(_families(samples, token_budget), family_tokens, token_budget)]
    tokens = sum(map(family_tokens, _families(samples, sum(map(_document_tokens, samples)))))
    share = tokens // (-(-tokens // (token_budget * world_size)) * world_size)
    steps = even_steps(
        _families(samples, share // FAMILIES_AT_LEAST),
        size=family_tokens,
        cost=lambda family: family_cost(family, cost),
        capacity=token_budget,
        ranks=world_size,
    )
    return [[plan(families) for families in step if families] for step in steps]


def _pack_rows(
    samples: list[Sample], token_budget: int, layout: PackingLayout, world_size: int, dtype: torch.dtype, cost: ForwardCost
) -> list[list[_Plan]]:
    """For each step, the micro-batches of the ranks, as `_pack_documents`."""
    length, count = _row_shape(samples, token_budget, layout)
    rows = best_fit(samples, _document_tokens, length)
    shares = [rows[i::world_size] for i in range(world_size)]
    steps = [[share[i : i + count] for share in shares if i < len(share)] for i in range(0, len(shares[0]), count)]
    return [[_Plan(_rows_cost(content, cost), partial(_row_batch, content, dtype)) for content in step] for step in steps]


def _pack_separate(
    samples: list[Sample], token_budget: int, world_size: int, dtype: torch.dtype, cost: ForwardCost
) -> list[list[_Plan]]:
    """For each step, the micro-batches of the ranks, as `_pack_documents`: documents of similar length, each a row."""
    micros: list[list[list[Sample]]] = []
    for sample in sorted(samples, key=_document_tokens, reverse=True):
        if not micros or (len(micros[-1]) + 1) * _document_tokens(micros[-1][0][0]) > token_budget:
            micros.append([])
        micros[-1].append([sample])
    plans = [_Plan(_rows_cost(rows, cost), partial(_row_batch, rows, dtype, one_document=True)) for rows in micros]
    return [plans[i : i + world_size] for i in range(0, len(plans), world_size)]


def family_cost(family: list[Sample], cost: ForwardCost) -> float:
    """Predict the FLOPs of a family in the documents layout, whose prompt is attended to once."""
    prompt = len(family[0].prompt)
    attention = (cost.document(_document_tokens(sample), prompt if i else 0) for i, sample in enumerate(family))
    return cost.token * family_tokens(family) + sum(attention) + cost.target * _targets(family)


def _rows_cost(rows: list[list[Sample]], cost: ForwardCost) -> float:
    """Predict the FLOPs of rows of documents, each of which holds its own prompt."""
    samples = [sample for row in rows for sample in row]
    padded = len(rows) * max(sum(map(_document_tokens, row)) for row in rows)
    return cost.token * padded + sum(cost.document(_document_tokens(s)) for s in samples) + cost.target * _targets(samples)


def _targets(samples: list[Sample]) -> int:
    return sum(int(np.count_nonzero(sample.keep)) for sample in samples)


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
        group=torch.tensor([sample.group for sample in samples], dtype=torch.int64),
        groups=list(dict.fromkeys(sample.group for sample in samples)),
    )

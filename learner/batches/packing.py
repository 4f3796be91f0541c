"""Packing: from scored groups to micro-batches of about `token_budget` tokens, without padding where that is possible.

    groups -> samples (one per rollout) -> families (rollouts of one prompt) -> ranks -> micro-batches

Two layouts. `documents` (attention.py): one flat row, each family's prompt once, then its completions. `rows`: [R, L] rows
of whole (prompt, completion) documents whose position_ids restart at 0 in each; that restart is how transformers detects
packed rows, and only with attention_mask=None and use_cache=False (policy.py guards it). Longest first, each into the
fullest place where it still fits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from ...common.logprobs import predictors
from .attention import DocumentPlan

ROW_TOKENS = 128  # rows are at least this long: dense masks make attention quadratic in it, short rows leave gaps
BLOCK_SLACK = 1.25  # documents of a block differ in length by at most this factor

T = TypeVar("T")


@dataclass(slots=True)
class Sample:
    """One rollout as the learner sees it. Tokens with keep False are context only."""

    group: int  # ordinal
    prompt: np.ndarray  # [P] int32
    completion: np.ndarray  # [T] int32
    behaviour: np.ndarray  # [T] float32, tempered log-probabilities of the sampler
    keep: np.ndarray  # [T] bool
    staleness: np.ndarray  # [T] int32, versions between the token's sampler and the policy at the batch's start
    temperature: float
    reward: float  # shaped
    advantage: float = 0.0
    weight: float = 0.0  # of each token in the loss: 1 / a global denominator

    def __post_init__(self) -> None:
        if not len(self.prompt) or not len(self.completion):
            raise ValueError(f"group {self.group}: an empty prompt or completion cannot be trained")


@dataclass(slots=True)
class MicroBatch:
    """One forward and backward. M tokens have a loss; the hidden state at `source` (flat in R * L) predicts `target`."""

    input_ids: Tensor  # [R, L] int64
    position_ids: Tensor  # [R, L] int64
    plan: DocumentPlan | None  # documents layout only
    source: Tensor  # [M] int64
    target: Tensor  # [M] int64
    behaviour: Tensor  # [M]
    advantage: Tensor  # [M]
    weight: Tensor  # [M]
    temperature: Tensor  # [M]
    staleness: Tensor  # [M], of the same type as the others
    rollout: Tensor  # [M] int64, which of the micro-batch's rollouts; each is whole in it
    num_rollouts: int
    groups: list[int]  # ordinals
    proximal: Tensor | None = None  # [M], when it is not the current policy
    reference: Tensor | None = None  # [M], when there is a KL term

    def to(self, device: torch.device) -> MicroBatch:
        """The same on another device."""
        if device.type == "cpu":
            return self
        plan = self.plan and DocumentPlan(self.plan.take.to(device), self.plan.shapes, self.plan.put.to(device))
        moved = {f.name: value.to(device) for f in fields(self) if isinstance(value := getattr(self, f.name), Tensor)}
        return replace(self, plan=plan, **moved)


def best_fit(items: Sequence[T], size: Callable[[T], int], capacity: int) -> list[list[T]]:
    """Bins of at most `capacity`, longest items first, each into the fullest with room; oversized ones alone."""
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
    """One list per rank with about equal sums: longest first, each to the least loaded rank."""
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
    layout: str,
    rank: int = 0,
    world_size: int = 1,
    dtype: torch.dtype = torch.float32,
) -> list[MicroBatch]:
    """This rank's micro-batches of one update; every rank gets the same number (spare ones repeat tokens with weight 0).

    The result is a function of the arguments alone, so that ranks agree without talking.
    """
    if layout == "documents":
        families = _families(samples, max(token_budget // world_size, 1) if world_size > 1 else token_budget)
        plans = [best_fit(share, family_tokens, token_budget) for share in balance(families, family_tokens, world_size)]
        build: Callable[[list[Any], torch.dtype], MicroBatch] = _document_batch
    else:
        length, count = _row_shape(samples, token_budget, layout)
        rows = best_fit(samples, _document_tokens, length)
        shares = [rows[i::world_size] for i in range(world_size)]
        plans = [[share[i : i + count] for i in range(0, len(share), count)] for share in shares]
        build = _row_batch
    most = max(len(plan) for plan in plans)
    mine = [build(content, dtype) for content in plans[rank]]
    spare = build(next(plan[0] for plan in plans if plan), dtype) if len(mine) < most else None
    return mine + [replace(spare, weight=torch.zeros_like(spare.weight)) for _ in range(most - len(mine)) if spare]


def family_tokens(family: list[Sample]) -> int:
    """Tokens of a family in the documents layout: its prompt once, then every completion."""
    return len(family[0].prompt) + sum(len(sample.completion) for sample in family)


def _document_tokens(sample: Sample) -> int:
    return len(sample.prompt) + len(sample.completion)


def _families(samples: list[Sample], token_budget: int) -> list[list[Sample]]:
    """Samples of one group together; split, long completions first so that parts hold similar lengths, where over budget."""
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


def plan_documents(documents: list[np.ndarray], num_tokens: int) -> DocumentPlan:
    """Blocks of documents of similar length; a token that several share takes its result from any of them."""
    put = np.empty(num_tokens, dtype=np.int64)
    blocks: list[np.ndarray] = []
    offset = 0
    ordered = sorted(documents, key=len)
    while ordered:
        count = sum(len(document) <= len(ordered[0]) * BLOCK_SLACK for document in ordered)
        block, ordered = ordered[:count], ordered[count:]
        take = np.empty((count, len(block[-1])), dtype=np.int64)
        for i, document in enumerate(block):
            take[i, : len(document)] = document
            take[i, len(document) :] = document[-1]
            put[document] = offset + i * take.shape[1] + np.arange(len(document))
        blocks.append(take)
        offset += take.size
    flat = np.concatenate([block.ravel() for block in blocks])
    return DocumentPlan(torch.from_numpy(flat), [block.shape for block in blocks], torch.from_numpy(put))


def _row_shape(samples: list[Sample], token_budget: int, layout: str) -> tuple[int, int]:
    """(tokens of a row, rows of a micro-batch). Flash attention takes one long row, dense masks several short ones."""
    longest = max(_document_tokens(sample) for sample in samples)
    if layout == "flat":
        return max(token_budget, longest), 1
    length = max(ROW_TOKENS, -(-longest // 64) * 64)
    return length, max(1, token_budget // length)


def _row_batch(rows: list[list[Sample]], dtype: torch.dtype) -> MicroBatch:
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
        position_ids[r, cursor:] = np.arange(length - cursor)
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
        rollout=chosen(np.repeat(np.arange(len(samples)), counts), torch.int64),
        num_rollouts=len(samples),
        groups=list(dict.fromkeys(sample.group for sample in samples)),
    )

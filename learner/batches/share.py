"""A rank's share of a micro-batch that several ranks work on (learner/context.py)."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..context import ContextGroup
from .documents import DocumentPlan


@dataclass(slots=True)
class ContextShare:
    """One rank's part of a micro-batch. Like a micro-batch of T tokens and m targets; every rank has as many of both.

    Tokens and targets beyond the micro-batch's own fill up; nothing is read from them.
    """

    group: ContextGroup
    input_ids: Tensor  # [1, T] int64
    position_ids: Tensor  # [1, T] int64
    # of the whole row
    plan: DocumentPlan
    source: Tensor  # [m] int64, into this rank's tokens
    target: Tensor  # [m] int64
    temperature: Tensor  # [m]
    # [M] int64: for each target of the micro-batch, its place among the N * m of all ranks
    place: Tensor

    def to(self, device: torch.device) -> ContextShare:
        """Return the part on another device."""
        moved = {f.name: value.to(device) for f in fields(self) if isinstance(value := getattr(self, f.name), Tensor)}
        return replace(self, plan=self.plan.to(device), **moved)

    def gather(self, values: Tensor) -> Tensor:
        """Return the values [M] of all targets from every rank's own [m]. An empty tensor stays empty. Collective."""
        if not len(values):
            return values
        return self.group.gather(values).index_select(0, self.place)


def share_tokens(
    group: ContextGroup,
    *,
    input_ids: Tensor,  # [1, S]
    position_ids: Tensor,  # [1, S]
    plan: DocumentPlan,
    source: Tensor,  # [M]
    target: Tensor,  # [M]
    temperature: Tensor,  # [M]
) -> ContextShare:
    """Cut this rank's part out of a micro-batch on the CPU."""
    sources, size = source.numpy(), group.size
    owner = sources % size
    order = np.argsort(owner, kind="stable")
    counts = np.bincount(owner, minlength=size)
    most = max(int(counts.max(initial=0)), 1)
    starts = np.cumsum(counts) - counts
    place = np.empty(len(sources), dtype=np.int64)
    place[order] = owner[order] * most + np.arange(len(order)) - starts[owner[order]]
    own = torch.from_numpy(order[starts[group.rank] : starts[group.rank] + counts[group.rank]])
    filled = (0, most - len(own))
    return ContextShare(
        group=group,
        input_ids=_own_tokens(input_ids, group),
        position_ids=_own_tokens(position_ids, group),
        plan=replace(plan, context=group),
        source=F.pad(source[own] // size, filled),
        target=F.pad(target[own], filled),
        temperature=F.pad(temperature[own], filled, value=1.0),
        place=torch.from_numpy(place),
    )


def _own_tokens(row: Tensor, group: ContextGroup) -> Tensor:
    """Every N-th token of a row [1, S], which is filled up to a multiple of N."""
    return F.pad(row, (0, -row.shape[1] % group.size))[:, group.rank :: group.size].contiguous()

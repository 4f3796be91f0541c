"""The places of documents in a flat row, in the two forms that attention takes them in (attention.py).

row       p p p a a a b b
documents [p p p a a a]              take: indices into the row, one row per document, padded at the end
          [p p p b b .]              put:  for each token of the row, the place of its result among the documents
keys      p p p a a a p p p b b      documents one after another; they start at 0, 6, 11
queries   p p p a a a b b            the row itself: each document asks for the tokens that no document before it had;
                                     they start at 0, 6, 8
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from ..context import ContextGroup

# documents of a block differ in length by at most this factor
BLOCK_SLACK = 1.25


@dataclass(slots=True)
class DocumentPlan:
    """The places of N documents in a flat row of S tokens."""

    # [sum of N * L] int64: the blocks' indices into the row, block after block; padding repeats a document's last token
    take: Tensor
    # (N, L) of each block: N documents of similar length
    shapes: list[tuple[int, int]]
    # [S] int64: for each token of the row, the place of its result in the order of `take`
    put: Tensor
    # [sum of L] int64: the documents' indices into the row, one document after another
    keys: Tensor
    # [N + 1] int32: where each document starts in `keys`, and where the last one ends
    key_starts: Tensor
    # [N + 1] int32: where each document's own queries start in the row. They are its last tokens
    query_starts: Tensor
    # tokens of the longest document, and of the longest run of queries
    longest: int
    most_queries: int
    # whether the device has a kernel for documents of unequal length (varlen.py)
    varlen: bool = False
    # the ranks that the row's tokens are dealt out to, if there are several
    context: ContextGroup | None = None

    def to(self, device: torch.device) -> DocumentPlan:
        """Return the plan on another device."""
        moved = {f.name: value.to(device) for f in fields(self) if isinstance(value := getattr(self, f.name), Tensor)}
        return replace(self, varlen=has_varlen_kernel(device), **moved)


def has_varlen_kernel(device: torch.device) -> bool:
    """Whether torch's flash attention runs there: from compute capability 8.0 on."""
    if device.type != "cuda" or not torch.backends.cuda.is_flash_attention_available():
        return False
    return torch.cuda.get_device_capability(device) >= (8, 0)


def plan_documents(documents: list[np.ndarray], num_tokens: int) -> DocumentPlan:
    """Plan the documents of a row, in the order of their own tokens in it.

    documents: indices into the row. A document may begin with tokens that earlier ones have too; the rest of it follows the
    rest of the document before it.
    """
    take, shapes, put = _blocks(documents, num_tokens)
    ends = np.array([document[-1] + 1 for document in documents])
    queries = np.diff(ends, prepend=0)
    lengths = np.array([len(document) for document in documents])
    assert ends[-1] == num_tokens, "every token belongs to a document"
    assert ((queries > 0) & (queries <= lengths)).all(), "documents lie in the order of the row"
    return DocumentPlan(
        take,
        shapes,
        put,
        keys=torch.from_numpy(np.concatenate(documents)),
        key_starts=_starts(lengths),
        query_starts=_starts(queries),
        longest=int(lengths.max()),
        most_queries=int(queries.max()),
    )


def _starts(lengths: np.ndarray) -> Tensor:
    return torch.from_numpy(np.concatenate(([0], np.cumsum(lengths))).astype(np.int32))


def _blocks(documents: list[np.ndarray], num_tokens: int) -> tuple[Tensor, list[tuple[int, int]], Tensor]:
    """Plan blocks of documents of similar length. A token that several documents share takes its result from any of them."""
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
    return torch.from_numpy(flat), [block.shape for block in blocks], torch.from_numpy(put)

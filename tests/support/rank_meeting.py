"""One of two ranks on two nodes that meet, in a process of its own (forks.py)."""

from __future__ import annotations

from prolong.learner.ranks import join_ranks
from torch import distributed as dist


def meet() -> None:
    """Join the other rank; print this one's number, and whether an earlier meeting left its mark in the store."""
    ranks = join_ranks(starve_s=120.0, cuda=False)
    store = dist.distributed_c10d._get_default_store()
    found = store.check(["met"])
    ranks.barrier()
    store.set("met", "")
    print(ranks.rank, found)

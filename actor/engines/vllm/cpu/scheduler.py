"""The scheduler of a CPU engine: asks for key-value blocks only when a token needs one.

A decoding request needs a new block once in `block_size` steps. Asking in every step is the longest call chain of `schedule`,
7 % of a tiny model's step (docs/decisions/003-actor-engine.md).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vllm.v1.core.kv_cache_manager import KVCacheBlocks, KVCacheManager
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.kv_cache_interface import FullAttentionSpec
from vllm.v1.request import Request, RequestStatus

from ..scheduler import FinalOnly


class CpuScheduler(FinalOnly, Scheduler):
    """Without asynchronous scheduling. Skips allocations where one group of full-attention layers makes that safe."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        groups = self.kv_cache_config.kv_cache_groups
        if len(groups) == 1 and type(groups[0].kv_cache_spec) is FullAttentionSpec and self.num_lookahead_tokens == 0:
            self.kv_cache_manager.allocate_slots = _lazy(self.kv_cache_manager, groups[0].kv_cache_spec.block_size)


def _lazy(manager: KVCacheManager, block_size: int) -> Callable[..., KVCacheBlocks | None]:
    """`allocate_slots` that asks only when the token starts a block, or completes one (which may then be cached)."""
    allocate, nothing = manager.allocate_slots, manager.empty_kv_cache_blocks

    def allocate_slots(request: Request, num_new_tokens: int, *args: Any, **kwargs: Any) -> KVCacheBlocks | None:
        inside = 0 < request.num_computed_tokens % block_size < block_size - 1
        if num_new_tokens == 1 and inside and request.status is RequestStatus.RUNNING:
            return nothing
        return allocate(request, num_new_tokens, *args, **kwargs)

    return allocate_slots

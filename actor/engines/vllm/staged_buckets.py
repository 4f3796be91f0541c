"""Where the tensors of an update lie when vLLM loads them. No vLLM.

They were staged in host memory, from where vLLM's loaders copy as they do from a checkpoint's files: a second model has no
place on the engine's GPU. Several workers get one bucket after the other on their GPUs: the first one hands them over there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch

from ....common.types import Manifest
from ....common.weights.buckets import bucket_views

Handover = Callable[[torch.Tensor], torch.Tensor]  # gives the first worker's bucket to every worker


def staged_tensors(
    manifest: Manifest, staged: Sequence[torch.Tensor], device: torch.device, hand_over: Handover | None
) -> Iterator[list[tuple[str, torch.Tensor]]]:
    """Yield the named tensors of each bucket. `staged` is empty on all workers but the first; `hand_over` None: it is alone."""
    for number, bucket in enumerate(manifest.buckets):
        if hand_over is None:
            flat = staged[number]
        elif staged:
            flat = hand_over(staged[number].to(device, non_blocking=True))
        else:
            flat = hand_over(torch.empty(bucket.num_bytes, dtype=torch.uint8, device=device))
        yield bucket_views(bucket, flat)

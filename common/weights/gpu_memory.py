"""Streams and host memory for work beside a GPU's computation. Everything here does nothing special on a CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def own_stream(device: torch.device) -> Iterator[None]:
    """Put what this thread does on `device` on a stream of its own, beside the stream that trains or generates.

    Inside another `own_stream` it stays the same stream.
    """
    if device.type != "cuda":
        yield
        return
    with torch.cuda.device(device):
        current = torch.cuda.current_stream(device)
        own = torch.cuda.Stream(device) if current == torch.cuda.default_stream(device) else current
        with torch.cuda.stream(own):
            yield


def finish_stream(device: torch.device) -> None:
    """Wait until `device` has done what this thread gave it. No peer is waited for: only copies and computation are queued."""
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()


def host_buffer(num_bytes: int, device: torch.device) -> torch.Tensor:
    """Memory of the host, [num_bytes] uint8 of any value; page-locked where `device` is a GPU: it copies faster then."""
    return torch.empty(num_bytes, dtype=torch.uint8, pin_memory=device.type == "cuda")

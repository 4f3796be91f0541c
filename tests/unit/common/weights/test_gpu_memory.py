"""Streams beside a GPU's computation, without a GPU: torch.cuda is replaced by one that notes what it is asked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from prolong.common.weights.gpu_memory import finish_stream, host_buffer, own_stream

GPU = torch.device("cuda", 1)


class Cuda:
    """The streams of one thread: numbers, 0 is the default one, on which the model computes."""

    def __init__(self) -> None:
        self.current, self.made, self.devices = 0, 0, list[torch.device]()

    @contextmanager
    def device(self, device: torch.device) -> Iterator[None]:
        self.devices.append(device)
        yield

    @contextmanager
    def stream(self, stream: int) -> Iterator[None]:
        before, self.current = self.current, stream
        yield
        self.current = before

    def Stream(self, device: torch.device) -> int:
        self.made += 1
        return self.made

    def current_stream(self, device: torch.device) -> int:
        return self.current

    def default_stream(self, device: torch.device) -> int:
        return 0


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    cuda = Cuda()
    monkeypatch.setattr(torch, "cuda", cuda)
    return cuda


def test_a_thread_leaves_the_stream_that_trains_and_has_its_gpu_set(cuda: Cuda) -> None:
    with own_stream(GPU):
        assert cuda.current == 1, "a kernel behind a broadcast on stream 0 would wait for the slowest actor"
    assert (cuda.current, cuda.devices) == (0, [GPU]), "a new thread's current GPU is 0 otherwise"


def test_one_inside_another_is_the_same_stream(cuda: Cuda) -> None:
    with own_stream(GPU), own_stream(GPU):
        assert cuda.current == cuda.made == 1


def test_on_a_cpu_nothing_is_asked_of_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "cuda", None)
    cpu = torch.device("cpu")
    with own_stream(cpu):
        finish_stream(cpu)
    assert host_buffer(32, cpu).shape == (32,)

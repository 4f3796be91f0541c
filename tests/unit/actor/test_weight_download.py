"""Downloads into staging memory, over a transport whose buckets the test releases."""

from __future__ import annotations

import threading
from collections.abc import Generator

import msgspec
import pytest
import torch
from prolong.actor.weight_download import WeightDownloader
from prolong.common.config.sections import WeightsConfig
from prolong.common.errors import WeightsError
from prolong.common.messages import UpdateWeights
from prolong.common.types import Manifest, Rendezvous
from prolong.common.weights.api import LearnerEnd
from prolong.common.weights.buckets import checksum, plan_buckets

CPU = torch.device("cpu")
HANG_S = 60.0
MANIFEST = plan_buckets([("a", "float32", (4,)), ("b", "float32", (4,))], 16)


class HeldTransport:
    """An actor's end that yields bucket after bucket once `go` is set. It counts what was done to it."""

    def __init__(self, error: Exception | None = None) -> None:
        self.go = threading.Event()
        self.error = error
        self.timeouts_s: list[float] = []
        self.num_opened = self.num_broken_off = self.num_closed = 0

    def open_learner_end(self, cfg: WeightsConfig, device: torch.device) -> LearnerEnd:
        raise NotImplementedError

    def open_actor_end(self, device: torch.device) -> HeldTransport:
        self.num_opened += 1
        return self

    def download(self, update: UpdateWeights, phase_timeout_s: float) -> Generator[torch.Tensor]:
        self.timeouts_s.append(phase_timeout_s)
        assert self.go.wait(HANG_S)
        try:
            for bucket in update.manifest.buckets:
                yield torch.full((bucket.num_bytes,), update.version, dtype=torch.uint8)
                if self.error is not None:
                    raise self.error
        except GeneratorExit:
            self.num_broken_off += 1
            raise

    def close(self) -> None:
        self.num_closed += 1


def update_of(version: int, *, transport: str = "held", phase_timeout_s: float = 0.0) -> UpdateWeights:
    return UpdateWeights(
        generation=1,
        version=version,
        epoch=version,
        member=0,
        num_members=1,
        rendezvous=Rendezvous(transport=transport, address=b""),
        manifest=MANIFEST,
        phase_timeout_s=phase_timeout_s,
    )


def test_a_download_goes_on_beside_its_caller_and_ends_with_a_checksum_for_every_bucket() -> None:
    transport = HeldTransport()
    downloader = WeightDownloader(CPU, {"held": transport})
    downloader.start(update_of(3), 30.0)
    assert downloader.result(0.0) is None
    transport.go.set()
    result = downloader.result(HANG_S)
    assert result is not None
    assert result.error == ""
    buckets = downloader.take_buckets()
    assert [flat.tolist() for flat in buckets] == [[3] * 16] * 2
    assert result.checksums == [checksum(flat) for flat in buckets]
    assert downloader.take_buckets() == [], "staging memory belongs to the caller once it was taken"


@pytest.mark.parametrize("error", [WeightsError("timed out"), RuntimeError("out of memory")])
def test_an_error_leaves_nothing_staged(error: Exception) -> None:
    transport = HeldTransport(error)
    transport.go.set()
    downloader = WeightDownloader(CPU, {"held": transport})
    downloader.start(update_of(0), 30.0)
    assert downloader.result(HANG_S) == ([], str(error))
    assert downloader.take_buckets() == []


def test_a_failure_of_the_downloader_itself_closes_the_transports_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    def out_of_memory(flat: torch.Tensor) -> int:
        raise RuntimeError("out of memory")

    monkeypatch.setattr("prolong.actor.weight_download.checksum", out_of_memory)
    transport = HeldTransport()
    transport.go.set()
    downloader = WeightDownloader(CPU, {"held": transport})
    downloader.start(update_of(0), 30.0)
    assert downloader.result(HANG_S) == ([], "out of memory")
    assert transport.num_broken_off == 1


def test_a_newer_download_drops_one_that_goes_on_and_uses_the_same_end() -> None:
    transport = HeldTransport()
    downloader = WeightDownloader(CPU, {"held": transport})
    downloader.start(update_of(1), 30.0)
    downloader.start(update_of(2), 30.0)
    transport.go.set()
    assert downloader.result(HANG_S) is not None
    assert [flat.tolist() for flat in downloader.take_buckets()] == [[2] * 16] * 2
    downloader.close()
    assert (transport.num_opened, transport.num_closed) == (1, 1)


@pytest.mark.parametrize(("phase_timeout_s", "used_s"), [(0.0, 30.0), (2.5, 2.5), (99.0, 30.0)])
def test_the_learners_deadline_holds_up_to_the_actors_own(phase_timeout_s: float, used_s: float) -> None:
    transport = HeldTransport()
    transport.go.set()
    downloader = WeightDownloader(CPU, {"held": transport})
    downloader.start(update_of(0, phase_timeout_s=phase_timeout_s), 30.0)
    assert downloader.result(HANG_S) is not None
    assert transport.timeouts_s == [used_s]


def test_a_transport_that_the_actor_does_not_have_is_an_error_that_lists_those_it_has() -> None:
    downloader = WeightDownloader(CPU, {"held": HeldTransport()})
    downloader.start(update_of(0, transport="pigeon"), 30.0)
    result = downloader.result(HANG_S)
    assert result is not None
    assert result.error == "no weight transport is called 'pigeon': expected one of held"


def test_a_manifest_that_does_not_fit_is_refused_before_anything_is_downloaded() -> None:
    transport = HeldTransport()
    downloader = WeightDownloader(CPU, {"held": transport})
    bucket = msgspec.structs.replace(MANIFEST.buckets[0], num_bytes=0)
    downloader.start(msgspec.structs.replace(update_of(0), manifest=Manifest(buckets=[bucket])), 30.0)
    result = downloader.result(HANG_S)
    assert result is not None
    assert "manifest" in result.error
    assert transport.timeouts_s == []


class OnGpu(torch.Tensor):
    """A tensor that says that it lies on a GPU."""

    # what is made of it is a plain tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return torch.device("cuda", 0)


class ReusedBuffer(HeldTransport):
    """Yields one buffer of the GPU again and again, as NCCL's end does."""

    def download(self, update: UpdateWeights, phase_timeout_s: float) -> Generator[torch.Tensor]:
        buffer = torch.zeros(64, dtype=torch.uint8)
        for place, bucket in enumerate(update.manifest.buckets):
            buffer.fill_(place + 1)
            yield buffer[: bucket.num_bytes].as_subclass(OnGpu)


def test_buckets_are_staged_in_host_memory_so_that_the_gpu_holds_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prolong.actor.weight_download.checksum", lambda flat: checksum(flat.as_subclass(torch.Tensor)))
    downloader = WeightDownloader(CPU, {"held": ReusedBuffer()})
    downloader.start(update_of(1), 30.0)
    result = downloader.result(HANG_S)
    assert result is not None
    assert result.error == ""
    buckets = downloader.take_buckets()
    assert [type(flat) for flat in buckets] == [torch.Tensor] * 2
    assert [flat.tolist() for flat in buckets] == [[1] * 16, [2] * 16]
    assert result.checksums == [checksum(flat) for flat in buckets]


def test_an_error_that_is_none_of_torchs_ends_a_download_too() -> None:
    transport = HeldTransport(TypeError("no such argument"))
    transport.go.set()
    downloader = WeightDownloader(CPU, {"held": transport})
    downloader.start(update_of(0), 30.0)
    assert downloader.result(HANG_S) == ([], "no such argument")

"""The actor's end of the weights plane, up to staging memory. An engine owns one downloader and loads what it staged.

    start(update)      a thread checks the manifest, downloads every bucket and checksums it, while the engine generates
    result(wait_s) ->  None while that goes on, then checksums or an error
    take_buckets() ->  the staged bytes, in host memory

A GPU is left to the engine: only one bucket at a time is on it (common/weights/staging.py has the arithmetic). A failure here
leaves the weights that the engine generates with untouched. The deadline of a phase comes from the learner,
in the update, so that both ends give up on a silent peer at the same time. How the bytes travel: common/weights/api.py.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import closing
from typing import NamedTuple

import torch

from ..common.errors import WeightsError
from ..common.messages import UpdateWeights
from ..common.weights.api import ActorEnd, EngineTransport
from ..common.weights.buckets import check_manifest, checksum
from ..common.weights.gpu_memory import finish_stream, host_buffer, own_stream
from ..common.weights.transports import ENGINE_TRANSPORTS, transport_named


class DownloadResult(NamedTuple):
    """How a download ended. vLLM's remote calls carry it as a plain list."""

    checksums: list[int]  # of the received buckets, in their order
    error: str  # empty: every bucket is staged


class WeightDownloader:
    """Downloads one update at a time into staging memory. All calls come from one thread, the engine's.

    Example:
        downloader = WeightDownloader(torch.device("cpu"))
        downloader.start(update, timeout_s=60.0)
        while (result := downloader.result(wait_s=0.002)) is None:
            engine.step()
        if not result.error:
            for bucket, flat in zip(update.manifest.buckets, downloader.take_buckets(), strict=True):
                model.load_weights(bucket_views(bucket, flat))
        downloader.close()
    """

    def __init__(self, device: torch.device, transports: Mapping[str, EngineTransport] = ENGINE_TRANSPORTS) -> None:
        self._device, self._transports = device, transports
        # by name of the transport; each is opened once, when a learner first names it
        self._ends: dict[str, ActorEnd] = {}
        self._download: _Download | None = None  # the last one begun

    def start(self, update: UpdateWeights, timeout_s: float) -> None:
        """Begin to download `update`. An earlier download that goes on is dropped: its thread ends at its own deadlines.

        `timeout_s` bounds each phase when the update names no shorter time.
        """
        download = self._download = _Download()
        try:
            end = self._end_of(update.rendezvous.transport)
        except WeightsError as error:
            download.end(str(error))
            return
        phase_timeout_s = min(update.phase_timeout_s or timeout_s, timeout_s)
        arguments = (end, update, self._device, phase_timeout_s)
        threading.Thread(target=download.run, args=arguments, name="weight-download", daemon=True).start()

    def result(self, wait_s: float) -> DownloadResult | None:
        """The end of the download begun last; None when it still goes on after `wait_s`."""
        assert self._download is not None, "no download was begun"
        return self._download.result if self._download.ended.wait(wait_s) else None

    def take_buckets(self) -> list[torch.Tensor]:
        """The staged buckets of the last download, each [num_bytes] uint8 in host memory; they are the caller's from now on."""
        assert self._download is not None, "no download was begun"
        buckets, self._download.staged = self._download.staged, []
        return buckets

    def close(self) -> None:
        """Leave the learner. A thread that still downloads ends at its own deadlines."""
        for end in self._ends.values():
            end.close()

    def _end_of(self, transport: str) -> ActorEnd:
        """Raises WeightsError for a transport that this actor does not have."""
        if transport not in self._ends:
            self._ends[transport] = transport_named(transport, self._transports).open_actor_end(self._device)
        return self._ends[transport]


class _Download:
    """One attempt to download an update: written by its thread until `ended` is set, read by the downloader afterwards."""

    def __init__(self) -> None:
        self.ended = threading.Event()
        self.result = DownloadResult([], "")
        self.staged: list[torch.Tensor] = []

    def run(self, end: ActorEnd, update: UpdateWeights, device: torch.device, phase_timeout_s: float) -> None:
        try:
            check_manifest(update.manifest)
            with own_stream(device):
                checksums = self._stage(end, update, device, phase_timeout_s)
        except Exception as error:
            # whatever it is, the learner must hear of it: torch's errors are of several classes
            self.staged = []
            self.end(str(error) or type(error).__name__)
        else:
            self.end("", checksums)

    def _stage(self, end: ActorEnd, update: UpdateWeights, device: torch.device, phase_timeout_s: float) -> list[int]:
        checksums: list[int] = []
        with closing(end.download(update, phase_timeout_s)) as buckets:
            for flat in buckets:
                # a GPU computes it a hundred times faster
                checksums.append(checksum(flat.to(device)))
                if flat.device.type != "cpu":
                    flat = host_buffer(flat.numel(), device).copy_(flat, non_blocking=True)
                self.staged.append(flat)
            finish_stream(device)
        return checksums

    def end(self, error: str, checksums: list[int] | None = None) -> None:
        self.result = DownloadResult(checksums or [], error)
        self.ended.set()

"""The actor's end of the weights plane, inside vLLM's worker process: what `weight_download.py` staged goes into the model.

`engine.py` drives it with three calls (`collective_rpc` to the extension below):
  prolong_receive   a thread joins the epoch's group and receives every bucket into staging memory, while generation goes on;
                    an error or a deadline here leaves the weights untouched
  prolong_received  waits a moment for that thread and tells how it ended: nothing yet, checksums, or an error
  prolong_load      with generation paused: staging memory -> model, through vLLM's layerwise reload

The backward edge learner -> actor of design.md's picture ends here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
import torch
from vllm.distributed.parallel_state import get_tp_group
from vllm.distributed.weight_transfer.base import WeightTransferEngine, WeightTransferInitInfo, WeightTransferUpdateInfo
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

from ....common.messages import UpdateWeights
from ....common.types import BucketSpec
from ....common.weights.buckets import bucket_views
from ...weight_download import WeightDownloader
from .cpu_kernels import install
from .parent_watch import end_with_actor

BACKEND = "prolong"


@dataclass
class NoInit(WeightTransferInitInfo):
    """Groups are per epoch and joined by the receiving thread: there is nothing to initialise."""


@dataclass
class Load(WeightTransferUpdateInfo):
    """Load what was staged."""


class WeightReceiver(WeightTransferEngine[NoInit, Load]):
    """One worker's receiver. With tensor parallelism the first worker receives, and hands the buckets on when they load."""

    init_info_cls = NoInit
    update_info_cls = Load

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._update: UpdateWeights | None = None
        self._downloader = WeightDownloader()

    # --- receive, beside generation ---

    def begin(self, update: UpdateWeights, timeout_s: float) -> None:
        """Start to receive `update`; an older download that goes on is dropped. Raises WeightsError if both share an epoch."""
        self._update = update
        if self.parallel_config.rank == 0:
            self._downloader.begin(update, self.device, timeout_s)

    def ended(self, wait_s: float) -> tuple[bool, list[int], str]:
        """(over, checksums of what was received, error), after waiting for at most `wait_s`."""
        return self._downloader.ended(wait_s)

    # --- load, with generation paused (vLLM's life cycle of an update) ---

    def init_transfer_engine(self, init_info: NoInit) -> None:
        """Nothing: groups come and go with epochs."""

    def start_weight_update(self) -> None:
        initialize_layerwise_reload(self.model)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        self.receive_weights(self.parse_update_info(update_info))
        if self.device.type == "cuda":  # the base class would synchronise an accelerator, which a CPU is not
            torch.cuda.synchronize(self.device)

    def receive_weights(self, update_info: Load) -> None:
        assert self._update is not None
        for i, bucket in enumerate(self._update.manifest.buckets):
            flat = self._bucket(i, bucket)
            self.model.load_weights(bucket_views(bucket, flat))  # type: ignore[operator]
        if self._downloader.last is not None:
            self._downloader.last.staged = []

    def _bucket(self, index: int, bucket: BucketSpec) -> torch.Tensor:
        """The staged bucket; on the other workers of a tensor-parallel engine, the first one's."""
        if self._downloader.last is not None:
            flat = self._downloader.last.staged[index]
        else:
            flat = torch.empty(bucket.num_bytes, dtype=torch.uint8, device=self.device)
        return flat if self.parallel_config.tensor_parallel_size == 1 else get_tp_group().broadcast(flat, src=0)

    def finish_weight_update(self) -> None:
        finalize_layerwise_reload(self.model, self.model_config)
        if self.device.type == "cpu":
            _repack_tied_heads(self.model)

    def shutdown(self) -> None:
        self._downloader.close()


def _repack_tied_heads(model: torch.nn.Module) -> None:
    """A tied head shares the embedding's tensor, but on CPU computes with a packed copy that the reload does not renew."""
    for module in model.modules():
        if isinstance(module, ParallelLMHead):
            module.quant_method.process_weights_after_loading(module)


class WorkerExtension:
    """Methods that vLLM mixes into its worker class (`worker_extension_cls`); called by `collective_rpc`."""

    weight_transfer_engine: WeightReceiver
    device: torch.device
    model_runner: Any

    def prolong_prepare(self) -> None:
        """Once, after the engine started."""
        if self.device.type == "cpu":
            install(self.model_runner)

    def prolong_receive(self, update: bytes, timeout_s: float) -> None:
        self.weight_transfer_engine.begin(msgspec.msgpack.decode(update, type=UpdateWeights), timeout_s)

    def prolong_received(self, wait_s: float) -> tuple[bool, list[int], str]:
        return self.weight_transfer_engine.ended(wait_s)

    def prolong_load(self) -> None:
        self.start_weight_update()  # type: ignore[attr-defined]
        self.update_weights({})  # type: ignore[attr-defined]
        self.finish_weight_update()  # type: ignore[attr-defined]


WeightTransferEngineFactory.register_engine(BACKEND, WeightReceiver)
end_with_actor()  # vLLM imports this module in its engine process, and forgets that process when ours is killed

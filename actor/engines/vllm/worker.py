"""Inside vLLM's worker process: weights that `weight_download.py` staged are loaded into the model.

`engine.py` drives it with three calls (`collective_rpc` to the extension below):
  prolong_download         begin to download into staging memory, in a thread, while the engine generates
                           (an error or a deadline leaves the weights untouched)
  prolong_download_result  wait a moment for that download: None (it goes on), or its checksums and error
  prolong_load             with generation paused: staging memory -> model, through vLLM's layerwise reload
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
import torch
from vllm.config import set_current_vllm_config
from vllm.distributed.parallel_state import get_tp_group
from vllm.distributed.weight_transfer.base import WeightTransferEngine, WeightTransferInitInfo, WeightTransferUpdateInfo
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.model_executor.layers.fused_moe.unquantized_fused_moe_method import UnquantizedFusedMoEMethod
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload
from vllm.model_executor.model_loader.reload.layerwise import get_layerwise_info

from ....common.adapters import is_adapter_update
from ....common.base_weights import BaseWeights, no_base
from ....common.config.sections import ModelConfig
from ....common.messages import UpdateWeights
from ...weight_download import DownloadResult, WeightDownloader
from ..layer_outputs import LayerOutputs
from .checkpoint_names import CheckpointNames
from .cpu.kernels import install
from .direct_copies import DirectCopies
from .head_bias import HeadBias
from .parent_watch import end_with_parent
from .staged_buckets import staged_tensors
from .step_count import StepCount

BACKEND = "prolong"


@dataclass
class NoInit(WeightTransferInitInfo):
    """vLLM asks for a type here. The download connects by itself: there is nothing to initialise."""


@dataclass
class Load(WeightTransferUpdateInfo):
    """Load the staged weights."""


class WeightLoader(WeightTransferEngine[NoInit, Load]):
    """Loads updates into one worker's model. With tensor parallelism the first worker downloads for all of them."""

    init_info_cls = NoInit
    update_info_cls = Load

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._update: UpdateWeights | None = None  # begun last
        self._holds_adapters = False  # and not whole weights
        self.downloader = WeightDownloader(self.device)  # works on the first worker only
        # vLLM has wrapped some of transformers' classes, which then ask for its configuration when they are built
        with set_current_vllm_config(self.vllm_config):
            self._names = CheckpointNames(self.model_config.model)
        self._head_bias = HeadBias(self.model)
        self._direct_copies = DirectCopies(self.model)
        self._loaded: set[str] = set()  # the names of vLLM's parameters that the last update filled
        self._base: BaseWeights | None = None  # what updates of adapters are merged with

    @property
    def downloads(self) -> bool:
        """Whether this worker is the one that downloads."""
        return self.parallel_config.rank == 0

    def keep_base(self) -> None:
        """Read the model's weights, because updates will hold adapters. May take as long as loading the model."""
        model = ModelConfig(path=self.model_config.model, max_context=self.model_config.max_model_len)
        with set_current_vllm_config(self.vllm_config):
            self._base = BaseWeights.load(model, self.model_config.dtype, self.device)

    def begin(self, update: UpdateWeights, timeout_s: float) -> None:
        """Begin to download `update`, which the next load puts into the model."""
        self._update = update
        if self.downloads:
            self.downloader.start(update, timeout_s)

    # The methods below are vLLM's life cycle of an update, with generation paused.

    def init_transfer_engine(self, init_info: NoInit) -> None:
        """Does nothing: see NoInit."""

    def start_weight_update(self) -> None:
        assert self._update is not None
        names = {spec.name for bucket in self._update.manifest.buckets for spec in bucket.tensors}
        self._holds_adapters = is_adapter_update(names)
        if self._holds_adapters:
            names = self._required_base().names
        self._head_bias.prepare(names, self.device)
        if self.device.type == "cpu":
            _forget_expert_kernels(self.model)
        initialize_layerwise_reload(self.model)
        self._direct_copies.prepare()

    def update_weights(self, update_info: dict[str, Any]) -> None:
        self.receive_weights(self.parse_update_info(update_info))
        # the base class would synchronise an accelerator, and a CPU is none
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def receive_weights(self, update_info: Load) -> None:
        staged = self._staged_buckets()
        if self._holds_adapters:
            update = dict(itertools.chain.from_iterable(staged))
            staged = iter([self._required_base().merged(update)])
        buckets = (self._head_bias.keep(views) for views in staged)
        if self._names.differ:
            buckets = iter([self._names.convert(itertools.chain.from_iterable(buckets))])
        self._loaded.clear()
        for tensors in buckets:
            self._loaded |= self.model.load_weights(tensors) or set()  # type: ignore[operator]

    def _required_base(self) -> BaseWeights:
        """The base, for adapters that have arrived. Raises: ModelError."""
        if self._base is None:
            raise no_base()
        return self._base

    def _staged_buckets(self) -> Iterator[Iterable[tuple[str, torch.Tensor]]]:
        """The named tensors of each bucket of the update."""
        assert self._update is not None
        staged = self.downloader.take_buckets() if self.downloads else []
        alone = self.parallel_config.tensor_parallel_size == 1
        hand_over = None if alone else lambda flat: get_tp_group().broadcast(flat, src=0)
        return staged_tensors(self._update.manifest, staged, self.device, hand_over)

    def finish_weight_update(self) -> None:
        finalize_layerwise_reload(self.model, self.model_config)
        self._head_bias.finish()
        if self.device.type == "cpu":
            _repack_tied_heads(self.model)

    def shutdown(self) -> None:
        self.downloader.close()

    def unloaded(self) -> list[str]:
        """The parameters that the last update left as they were: what the engine was born with, which is random.

        Only those that the model was built with: others are made of these after each load.
        """
        # tied ones once
        own = {name for name, parameter in self.model.named_parameters() if parameter.numel()}
        return [
            full_name
            for prefix, module in self.model.named_modules()
            for name in get_layerwise_info(module).restore_metadata[0]
            if (full_name := f"{prefix}.{name}" if prefix else name) in own and full_name not in self._loaded
        ]


def _forget_expert_kernels(model: torch.nn.Module) -> None:
    """Have the experts of a mixture packed again: on a CPU, vLLM packs them only when it makes their kernel."""
    for module in model.modules():
        method = getattr(module, "quant_method", None)
        if isinstance(method, UnquantizedFusedMoEMethod):
            method.moe_kernel = None


def _repack_tied_heads(model: torch.nn.Module) -> None:
    """A tied head shares the embedding's tensor, but on a CPU computes with a packed copy that the reload does not update."""
    for module in model.modules():
        if isinstance(module, ParallelLMHead):
            module.quant_method.process_weights_after_loading(module)


class WorkerExtension:
    """Methods that vLLM mixes into its worker class (`worker_extension_cls`); called by `collective_rpc`."""

    weight_transfer_engine: WeightLoader
    device: torch.device
    model_runner: Any
    layer_outputs: LayerOutputs
    step_count: StepCount

    def prolong_prepare(self, keep_base: bool) -> None:
        """Called once, after the engine has started."""
        if keep_base:
            self.weight_transfer_engine.keep_base()
        if self.device.type == "cpu":
            install(self.model_runner)
        self.step_count = StepCount(self.model_runner)

    def prolong_num_steps(self) -> int:
        """Steps since `prolong_prepare`."""
        return self.step_count.num_steps

    def prolong_download(self, update: bytes, timeout_s: float) -> None:
        """Begin to download an encoded UpdateWeights. An earlier download that goes on is dropped."""
        self.weight_transfer_engine.begin(msgspec.msgpack.decode(update, type=UpdateWeights), timeout_s)

    def prolong_download_result(self, wait_s: float) -> DownloadResult | None:
        """None while the download goes on, and on workers that do not download."""
        loader = self.weight_transfer_engine
        return loader.downloader.result(wait_s) if loader.downloads else None

    def prolong_load(self) -> list[str]:
        """Load the staged weights; returns the parameters that got none."""
        self.start_weight_update()  # type: ignore[attr-defined]
        self.update_weights({})  # type: ignore[attr-defined]
        self.finish_weight_update()  # type: ignore[attr-defined]
        return self.weight_transfer_engine.unloaded()

    def prolong_watch_layers(self) -> None:
        """Keep what the layers compute in the next forward pass."""
        text = self.model_runner.model_config.hf_text_config
        self.layer_outputs = LayerOutputs(self.model_runner.model, text.num_hidden_layers, text.hidden_size)

    def prolong_take_layers(self) -> list[tuple[str, list[int], bytes]]:
        """Stage, shape and float32 values of what the layers computed."""
        outputs = self.layer_outputs.take()
        return [(stage, list(value.shape), value.numpy().tobytes()) for stage, value in outputs.items()]


WeightTransferEngineFactory.register_engine(BACKEND, WeightLoader)
# vLLM imports this module in its engine process, which would outlive an actor that is killed
end_with_parent()

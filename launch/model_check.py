"""Checks of the model before a process starts: `prolong train`, `prolong doctor`, and learner and actor started alone.

No torch: a model that cannot be trained costs a moment, not the start of an engine.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

from ..actor.engines.vllm.engine_arguments import check_engine_args
from ..common.config.actors import in_pool
from ..common.config.choices import Device, EngineKind
from ..common.config.sections import Config, ModelConfig
from ..common.errors import ConfigError, ModelError
from ..common.json_object import JsonObject
from ..common.model_folder import CONFIG, biased_tied_head, config_refusal, folder_refusal, longest_context, read_model_config
from ..common.tokenizer import tokenizer_folder
from .gpus import computes_on_gpu, has_gpu

ATTENTIONS = ("documents", "sdpa", "eager", "flash_attention_2", "flex_attention")
GPU_ONLY = ("flash_attention_2", "flex_attention")
AUTO = "auto"


def is_folder_name(path: str) -> bool:
    """Whether `model.path` is meant as a folder; hub names never begin like a path."""
    return path.startswith((".", "/", "~")) or Path(path).exists()


def read_config_of(path: str) -> JsonObject:
    """config.json of a folder or a hub name, of which only the small files are fetched. Raises: ModelError."""
    return read_model_config(Path(path).expanduser() if is_folder_name(path) else tokenizer_folder(path))


def check_model(cfg: Config) -> None:
    """Raise ModelError or ConfigError unless this model can be trained, as far as its folder tells.

    Of a hub name only the small files are fetched and looked at; its weights are checked when they are loaded.
    """
    path = cfg.model.path
    if is_folder_name(path):
        folder = Path(path).expanduser()
        if not (folder / CONFIG).is_file():
            hint = "; `prolong bootstrap` makes the demo's" if folder.name == "demo" else ""
            raise ModelError(f"model.path = {path!r}: expected a model folder with a {CONFIG}{hint}")
        refusal = folder_refusal(folder) or (biased_tied_head(folder) if cfg.actor.engine is EngineKind.vllm else "")
    else:
        folder = tokenizer_folder(path)
        refusal = config_refusal(read_model_config(folder))
    if refusal:
        raise ModelError(f"model.path = {path!r}: {refusal}")
    longest = longest_context(read_model_config(folder))
    if longest is not None and cfg.model.max_context > longest:
        raise ConfigError(f"model.max_context = {cfg.model.max_context}: expected at most the model's {longest} positions")
    _check_attention(cfg.model)
    if cfg.actor.engine_args:
        check_engine_args(cfg, gpu=computes_on_gpu(cfg.model.device))


def settle_dtype(cfg: Config, on_gpu: Callable[[Device], bool] = computes_on_gpu) -> None:
    """Replace the `model.dtype` of `auto`, of the run and of pools: bfloat16 on a GPU, float32 on a CPU.

    Every command does so before anything else, and config.yaml holds the result; a learner or engine that a program starts does
    so itself. An actor on another host than the learner's settles for itself, and compares with the weights that it gets.
    """
    if cfg.model.dtype == AUTO:
        cfg.model.settle_auto(on_gpu=on_gpu(cfg.model.device))
    for pool, settings in cfg.pools.items():
        if settings.model.get("dtype") == AUTO:
            kind = in_pool(cfg, pool).model
            kind.settle_auto(on_gpu=on_gpu(kind.device))
            settings.model["dtype"] = kind.dtype


def _check_attention(model: ModelConfig) -> None:
    """Raise ConfigError for a setting that is none, or that this machine cannot train with."""
    name = model.attention
    if name not in ATTENTIONS:
        raise ConfigError(f"model.attention = {name!r}: expected one of {', '.join(ATTENTIONS)}")
    if name in GPU_ONLY and (model.device is Device.cpu or not has_gpu()):
        raise ConfigError(f"model.attention = {name!r}: it has no gradients on a CPU; use model.attention=documents")
    if name == "flash_attention_2" and importlib.util.find_spec("flash_attn") is None:
        raise ConfigError(
            "model.attention = 'flash_attention_2': the package flash-attn is not installed here; install it, or use "
            "model.attention=documents"
        )

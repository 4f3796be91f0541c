"""`actor.engine_args`: arguments of vLLM's engine under vLLM's own names, and those that would break what we rely on.

    check_engine_args   before a process starts: names, against the source of vLLM's own class; no import of vLLM or torch
    check_types         in the actor, before the engine's process starts: values, against that class's annotations

What is left is vLLM's to judge; its refusal is a mistake of the user as well (settings.py).
"""

from __future__ import annotations

import ast
import difflib
import importlib.util
import typing
from collections.abc import Iterator, Mapping
from enum import Enum
from functools import cache
from pathlib import Path

from ....common.config.sections import Config
from ....common.errors import ConfigError

_CLASSES = ("EngineArgs", "AsyncEngineArgs")

_OTHER_MODEL = "the engine must run the model that the learner trains, as model.path describes it"
_OTHER_WORKERS = "weights reach the workers of one group of actor.tensor_parallel GPUs alone"
_OLD_KEYS = "it would keep keys and values that older weights computed"
_MOVED = "the reload of weights expects the engine's parameters where it left them"
_ADAPTERS = "adapters are added to the weights as they arrive (model.lora), and the engine sees whole weights"
_OWN_CODE = "it loads code into the engine's process"
_SLEEP = "an engine that sleeps neither generates nor receives weights (docs/decisions/020-one-gpu-without-sleep.md)"

# argument -> the setting of ours that sets it
_OURS = {
    "model": "model.path",
    "dtype": "model.dtype",
    "max_model_len": "model.max_context",
    "seed": "run.seed",
    "max_num_seqs": "actor.max_num_seqs",
    "tensor_parallel_size": "actor.tensor_parallel",
    "gpu_memory_utilization": "actor.gpu_memory_utilization",
    "kv_cache_memory_bytes": "actor.kv_cache_gib",
}

# argument -> why it cannot be given
_REFUSED = {
    "load_format": "the engine starts without weights, and gets the learner's",
    "weight_transfer_config": "weights come from the learner",
    "worker_extension_cls": "the part of the engine that receives weights is named there",
    "worker_cls": "weights are received in vLLM's own worker",
    "scheduler_cls": "our scheduler notes which weights sampled which token",
    "logprobs_mode": "behaviour log-probabilities must be those of the distribution that was sampled from",
    "generation_config": "sampling settings come with the tickets",
    "override_generation_config": "sampling settings come with the tickets",
    "skip_tokenizer_init": "the engine gets and gives token ids",
    "disable_log_stats": "the actor counts by itself (perf/ in docs/metrics.md)",
    "distributed_executor_backend": "the engine's processes must end with the actor",
    "logits_processors": _OWN_CODE + ", and the learner does not know the distribution that it makes",
    "watermark_config": "the learner does not know the distribution that it makes",
    "enable_trace_replay": "rollouts are sampled, not replayed",
    "spec_method": "give speculative_config",
    "spec_model": "give speculative_config",
    "spec_tokens": "give speculative_config",
    "model_class_overrides": _OWN_CODE,
    "reasoning_parser_plugin": _OWN_CODE,
    "io_processor_plugin": _OWN_CODE,
    **dict.fromkeys(("trust_remote_code",), "code of a model's folder is never run"),
    **dict.fromkeys(
        ("model_weights", "hf_config_path", "config_format", "revision", "code_revision", "hf_overrides", "runner", "convert",
         "tokenizer", "tokenizer_mode", "tokenizer_revision", "pooler_config", "diffusion_config"),
        _OTHER_MODEL,
    ),
    **dict.fromkeys(
        ("pipeline_parallel_size", "prefill_context_parallel_size", "data_parallel_size", "data_parallel_rank",
         "data_parallel_start_rank", "data_parallel_size_local", "data_parallel_address", "data_parallel_rpc_port",
         "data_parallel_hybrid_lb", "data_parallel_external_lb", "data_parallel_multi_port_external_lb",
         "data_parallel_backend", "nnodes", "node_rank", "master_addr", "master_port", "enable_elastic_ep"),
        f"{_OTHER_WORKERS}; start more actors instead",
    ),
    **dict.fromkeys(("kv_transfer_config", "ec_transfer_config", "kv_offloading_size", "kv_offloading_backend"), _OLD_KEYS),
    **dict.fromkeys(
        ("cpu_offload_gb", "cpu_offload_params", "offload_backend", "offload_group_size", "offload_num_in_group",
         "offload_prefetch_step", "offload_params", "enable_eplb", "eplb_config"),
        _MOVED,
    ),
    **dict.fromkeys(
        ("enable_lora", "max_loras", "max_lora_rank", "default_mm_loras", "fully_sharded_loras", "max_cpu_loras", "lora_dtype",
         "lora_target_modules"),
        _ADAPTERS,
    ),
    **dict.fromkeys(
        ("enable_sleep_mode", "sleep_mode_backend", "sleep_mode_offload_cudagraph", "sleep_preserve_parameter_names"), _SLEEP
    ),
}  # fmt: skip

# of `quantization`: those that vLLM makes from unquantized weights, at every load; others need files that are quantized
ONLINE_QUANTIZATION = (
    "fp8_per_tensor", "fp8_per_block", "fp8_per_channel", "mxfp8", "mxfp4", "int8_per_channel_weight_only", "nvfp4_per_token",
    "online",
)  # fmt: skip
# of `speculative_config`: drafts that need no weights
_DRAFTS = ("ngram", "ngram_gpu", "suffix")


def check_engine_args(cfg: Config, *, gpu: bool) -> None:
    """Raise ConfigError unless vLLM has each argument, and none breaks a promise. `gpu`: whether the engine runs on one."""
    given = cfg.actor.engine_args
    for name, value in given.items():
        reason = _refusal(name, value, gpu=gpu)
        if reason:
            raise ConfigError(f"actor.engine_args.{name} = {value!r}: {reason}")
    if given.get("speculative_config") and max(cfg.sampling.min_p, cfg.validation.min_p) > 0:
        raise ConfigError("sampling.min_p or validation.min_p: vLLM has no min_p with actor.engine_args.speculative_config")


def _refusal(name: str, value: object, *, gpu: bool) -> str:
    """Why this argument is not taken; empty if it is."""
    if name in _OURS:
        return f"it is set by {_OURS[name]}"
    if name in _REFUSED:
        return f"it cannot be given: {_REFUSED[name]}"
    known = argument_names()
    if known and name not in known:
        near = difflib.get_close_matches(name, known - _OURS.keys() - _REFUSED.keys(), n=3)
        hint = f"did you mean {', '.join(near)}?" if near else "its arguments are listed in the documentation of EngineArgs"
        return f"this vLLM has no engine argument of that name; {hint}"
    if name == "quantization" and value is not None and value not in ONLINE_QUANTIZATION:
        return f"expected one of {', '.join(ONLINE_QUANTIZATION)}: the learner's weights are not quantized"
    return _draft_refusal(value, gpu=gpu) if name == "speculative_config" and value is not None else ""


def _draft_refusal(value: object, *, gpu: bool) -> str:
    if not isinstance(value, Mapping) or value.get("method") not in _DRAFTS:
        return f"expected a method of {', '.join(_DRAFTS)}: a draft model would keep the random weights that it starts with"
    if value.get("rejection_sample_method", "standard") not in ("standard", "block"):
        return "rejection_sample_method must be standard or block: others accept drafts that the policy would not have sampled"
    return "" if gpu else "vLLM gives no log-probabilities of drafted tokens on a CPU"


@cache
def argument_names() -> frozenset[str]:
    """The arguments of vLLM's engine, read from its source: to import it takes seconds. Empty without vLLM."""
    found = importlib.util.find_spec("vllm")
    if found is None or found.origin is None:
        return frozenset()
    tree = ast.parse((Path(found.origin).parent / "engine" / "arg_utils.py").read_text(encoding="utf-8"))
    classes = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name in _CLASSES)
    return frozenset(name for node in classes for name in _fields(node) if not name.startswith("_"))


def _fields(node: ast.ClassDef) -> Iterator[str]:
    for line in node.body:
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
            yield line.target.id


def check_types(given: Mapping[str, object]) -> None:
    """Raise ConfigError for a value that is not of the type that vLLM declares. Imports vLLM."""
    import pydantic

    hints = _hints()
    for name, value in given.items():
        if isinstance(value, str) and any(issubclass(kind, Enum) for kind in _kinds(hints[name])):
            # vLLM takes the members of an enum by name
            continue
        try:
            pydantic.TypeAdapter(hints[name]).validate_python(value, strict=_is_plain(hints[name]))  # type: ignore[arg-type]
        except pydantic.PydanticSchemaGenerationError:
            # a class that pydantic does not know: left to vLLM
            continue
        except pydantic.ValidationError as error:
            expected = "; ".join(dict.fromkeys(found["msg"] for found in error.errors()[:3]))
            raise ConfigError(f"actor.engine_args.{name} = {value!r}: vLLM refuses this value ({expected})") from error


def _hints() -> dict[str, object]:
    """The types of vLLM's arguments. Some are imported for type checkers alone: those values are left to vLLM."""
    from vllm.engine.arg_utils import AsyncEngineArgs

    unknown: dict[str, object] = {}
    while True:
        try:
            return typing.get_type_hints(AsyncEngineArgs, localns=unknown)
        except NameError as error:
            if error.name is None or error.name in unknown:
                raise
            unknown[error.name] = object


def _is_plain(hint: object) -> bool:
    """Whether it names numbers, texts and None only: those are taken as they are, and not converted."""
    return all(kind in (int, float, bool, str, type(None)) for kind in _kinds(hint))


def _kinds(hint: object) -> list[type]:
    """The classes that a type names: itself, or the members of a union."""
    return [kind for kind in typing.get_args(hint) or (hint,) if isinstance(kind, type)]

"""How vLLM is configured: engine arguments, environment, start method. Reasons: docs/decisions/003-actor-engine.md."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ....common.config.sections import ActorConfig, Device, ModelConfig
from ....common.errors import ModelError
from .engine_arguments import check_types

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.engine.arg_utils import AsyncEngineArgs

CPU_CACHE_GIB = 1.0  # for keys and values on a CPU, unless actor.kv_cache_gib says otherwise


def runs_on_gpu(model: ModelConfig) -> bool:
    """Whether the engine computes on a GPU. Looks through NVML where it can: CUDA's driver stays closed in this process."""
    import torch

    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    return model.device is Device.cuda or (model.device is Device.auto and torch.cuda.is_available())


def start_method(*, gpu: bool) -> str:
    """How vLLM may start its engine process: "fork" on a CPU while this process has one thread, else "spawn".

    "spawn" imports everything once more. But a child that is forked while other threads run may wait forever for a lock that
    one of them held; most threads (torch's, ZeroMQ's) are unknown to Python, so ask the kernel. And a child of a process that
    has opened CUDA's driver cannot open it again: any library that merely asks whether there is a GPU may have done so, which
    vLLM, whose default on GPUs is "fork", does not notice.
    """
    return "fork" if not gpu and len(os.listdir("/proc/self/task")) == 1 else "spawn"


def set_environment(model: ModelConfig) -> None:
    """Set the variables that vLLM reads when it is imported, here and in its own process, unless they are set already."""
    settings = {"VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "ERROR", "TOKENIZERS_PARALLELISM": "false"}
    if runs_on_gpu(model):
        settings["VLLM_WORKER_MULTIPROC_METHOD"] = start_method(gpu=True)
    if Path(model.path).is_dir():
        settings["HF_HUB_OFFLINE"] = "1"
    if not runs_on_gpu(model):
        settings |= {
            # eager anyway; compiling the sampler costs 25 s at the first request
            "TORCHDYNAMO_DISABLE": "1",
            # two threads on contended cores are several times slower than one
            "OMP_NUM_THREADS": "1",
            # the process that starts the actor chooses the cores
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            # lets the worker live in the engine process: two processes instead of three
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        }
    for name, value in settings.items():
        os.environ.setdefault(name, value)


def engine_config(model: ModelConfig, actor: ActorConfig, seed: int) -> VllmConfig:
    """vLLM's configuration, checked by vLLM itself.

    Raises ConfigError for a value of `actor.engine_args` of another type, ModelError when vLLM refuses the model or a setting.
    """
    from vllm.exceptions import VLLMError

    check_types(actor.engine_args)
    try:
        config = engine_args(model, actor, seed).create_engine_config()
        config.scheduler_config.scheduler_cls = _scheduler(config)
        return config
    except (VLLMError, ValueError, OSError) as error:
        # pydantic's messages end with everything that it was given
        reason = " ".join(str(error).split()).partition(" [type=")[0] or type(error).__name__
        raise ModelError(f"model.path = {model.path!r}: vLLM refuses this model or a setting of `actor`: {reason}") from error


def engine_args(model: ModelConfig, actor: ActorConfig, seed: int) -> AsyncEngineArgs:
    from vllm.config import WeightTransferConfig
    from vllm.engine.arg_utils import AsyncEngineArgs

    package = __name__.rpartition(".")[0]
    settings: dict[str, Any] = {
        "model": model.path,
        "dtype": model.dtype,
        "max_model_len": model.max_context,
        "max_num_seqs": actor.max_num_seqs,
        "seed": seed,
        "load_format": "dummy",
        "skip_tokenizer_init": True,
        "generation_config": "vllm",
        "logprobs_mode": "processed_logprobs",  # of the tempered and cut distribution
        "disable_log_stats": True,
        "tensor_parallel_size": actor.tensor_parallel,
        "weight_transfer_config": WeightTransferConfig(backend="prolong"),
        "worker_extension_cls": f"{package}.worker.WorkerExtension",
    }
    if model.dtype != "float32":
        # as the learner's: logits in half precision cost .015 to .05 nats
        settings["hf_overrides"] = {"head_dtype": "float32"}
    if runs_on_gpu(model):
        settings["gpu_memory_utilization"] = actor.gpu_memory_utilization
        if actor.kv_cache_gib:
            # vLLM then does not measure what is left, and mistake the growth of a learner on the same GPU for its own
            settings["kv_cache_memory_bytes"] = int(actor.kv_cache_gib * 2**30)
    else:
        settings |= {
            "enforce_eager": True,
            "kv_cache_memory_bytes": int((actor.kv_cache_gib or CPU_CACHE_GIB) * 2**30),
            "block_size": 32,  # 3 % faster than the default of 128, and shorter prompts are shared
            "distributed_executor_backend": "uni" if actor.tensor_parallel == 1 else "mp",
        }
    settings.update(actor.engine_args)
    return AsyncEngineArgs(**settings)


def _scheduler(config: VllmConfig) -> str:
    """The class that schedules, by its full name: vLLM has decided by now whether it works one step ahead."""
    package = __name__.rpartition(".")[0]
    if config.device_config.device_type == "cpu":
        return f"{package}.cpu.scheduler.CpuScheduler"
    return f"{package}.scheduler.{'GpuScheduler' if config.scheduler_config.async_scheduling else 'StepScheduler'}"

"""Loading of models. No other module calls transformers' `from_pretrained`; all failures are ModelErrors.

Only safetensors are read, and no code of a model repository is ever run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from .adapters import BASE, SCALE, is_factor
from .architectures import head_refusal, model_refusal
from .config.sections import Device, ModelConfig
from .errors import ModelError
from .json_object import JsonObject
from .long_rope import settle_long_rope
from .model_folder import longest_context

# what a damaged or unfit model raises; the last two, of libraries beneath transformers, derive from Exception alone
LOAD_ERRORS = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    ImportError,
    RuntimeError,
    AttributeError,
    SafetensorError,
    StrictDataclassError,
)
# by `model.dtype`, once `auto` is settled (launch/model_check.py)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def resolve_device(device: Device, local_rank: int = 0) -> torch.device:
    """The device of this process. Raises ModelError if the configuration demands a GPU and there is none."""
    if device is Device.cpu or (device is Device.auto and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ModelError("model.device = cuda: torch sees no GPU here; use model.device=cpu, or install the `gpu` extra")
    return torch.device("cuda", local_rank)


def load_model(model: ModelConfig, *, dtype: torch.dtype, attention: str) -> PreTrainedModel:
    """A causal LM on the CPU, in evaluation mode, with every parameter read from the checkpoint.

    `model.path` is a local folder or a hub name. Raises ModelError: there is no model, it is not a causal LM, its checkpoint
    is damaged or incomplete, engine and learner would not agree on it (architectures.py), or the model or machine lacks the
    attention implementation.
    """
    transformers_logging.disable_progress_bar()
    try:
        result: Any = AutoModelForCausalLM.from_pretrained(
            model.path,
            dtype=dtype,
            attn_implementation=attention,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    except LOAD_ERRORS as error:
        raise unloadable(model, error) from error
    loaded, report = result
    _check_loaded(model, loaded, report)
    settle_long_rope(loaded, model.max_context)
    return loaded.eval()


def _check_loaded(model: ModelConfig, loaded: PreTrainedModel, report: JsonObject) -> None:
    """Raise ModelError unless every weight came from the checkpoint, is finite, and means the same to the engine."""
    missing = sorted(report["missing_keys"])
    if missing or report["mismatched_keys"]:
        raise incomplete(model, loaded, missing, sorted(map(str, report["mismatched_keys"])))
    # a sum is one pass over the memory, and is finite only if every number is
    broken = [name for name, parameter in loaded.named_parameters() if not torch.isfinite(parameter.detach().sum())]
    if broken:
        raise not_finite(model, broken)
    refuse_unfit(model, loaded, Path(model.path))


def unloadable(model: ModelConfig, error: Exception) -> ModelError:
    """The error for a model whose loading raised one of LOAD_ERRORS."""
    first_line = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return ModelError(
        f"model.path = {model.path!r}: cannot be loaded as a causal LM ({type(error).__name__}: {first_line}); "
        "expected a folder or hub name with config.json and safetensors weights"
    )


def incomplete(
    model: ModelConfig, causal: PreTrainedModel, missing: Sequence[str] = (), wrong: Sequence[str] = ()
) -> ModelError:
    """The error for files that lack tensors, or hold some of the wrong shape."""
    return ModelError(
        f"model.path = {model.path!r}: its weights do not fill a {type(causal).__name__} (missing {list(missing[:3])}, "
        f"other shapes {list(wrong[:3])}); expected a complete checkpoint"
    )


def not_finite(model: ModelConfig, names: list[str]) -> ModelError:
    """The error for parameters that hold infinities or no numbers."""
    return ModelError(
        f"model.path = {model.path!r}: {names[0]} holds numbers that are not finite, and {len(names) - 1} others do; "
        "fetch the model again, or use an earlier checkpoint of it"
    )


def refuse_unfit(model: ModelConfig, causal: PreTrainedModel, folder: Path) -> None:
    """Raise ModelError for a model, with its files in `folder`, on which engine and learner would not agree."""
    config = causal.config.to_dict()
    refusal = model_refusal(config) or head_refusal(folder, config)
    if refusal is not None:
        raise ModelError(f"model.path = {model.path!r}: {refusal}")


def published_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """What an update of the weights holds, by its name in the model: every parameter, tied ones once, then persistent buffers.

    A buffer that files store, such as the correction bias of a router, is not trained, but a part of the model.
    Of a model with adapters it is these alone, with what tells their base (adapters.py).
    """
    factors = [(name, parameter) for name, parameter in model.named_parameters() if is_factor(name)]
    if factors:
        yield from factors
        yield from ((name, model.get_buffer(name)) for name in (BASE, SCALE))
        return
    yield from model.named_parameters()
    for prefix, part in model.named_modules():
        for name, buffer in part.named_buffers(recurse=False):
            if name not in part._non_persistent_buffers_set:
                yield f"{prefix}.{name}" if prefix else name, buffer


def causal_class(path: str) -> type[PreTrainedModel]:
    """The class of the model at `path`, of which nothing but config.json is read. Raises ModelError."""
    config = read_config(path)
    found = cast("type[PreTrainedModel] | None", AutoModelForCausalLM._model_mapping.get(type(config), None))
    if found is None:
        raise ModelError(f"model.path = {path!r}: {type(config).__name__} is not the configuration of a causal LM")
    return found


def context_limit(path: str) -> int | None:
    """Longest context that the model's own configuration allows, in tokens; None if it names none. Raises ModelError."""
    return longest_context(read_config(path).to_dict())


def read_config(path: str) -> PreTrainedConfig:
    """config.json of the folder or hub name `path`. Raises ModelError."""
    try:
        return AutoConfig.from_pretrained(path, trust_remote_code=False)
    except (OSError, ValueError, KeyError, StrictDataclassError) as error:
        what = " ".join(str(error).split()) if isinstance(error, StrictDataclassError) else type(error).__name__
        raise ModelError(f"model.path = {path!r}: no readable config.json there ({what})") from error

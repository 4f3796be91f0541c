"""Fills a sharded model from safetensors files, tensor by tensor: a rank reads its own rows, and never holds the whole model.

    config.json -> empty_model (all on meta) -> ModelFiles.compute_buffers -> FSDP2 -> materialize -> ModelFiles.fill

What transformers does to the tensors of files (they may hold experts one by one that are computed together) is done with its
own converters, for one parameter at a time. Parameters and buffers are those of `from_pretrained`, to the bit.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    Concatenate,
    MergeModulelist,
    Transpose,
    WeightConverter,
    WeightRenaming,
    dot_natural_key,
    rename_source_key,
)
from transformers.utils.hub import cached_file

from ...common.adapters import is_of_adapter
from ...common.config.sections import ModelConfig
from ...common.long_rope import settle_long_rope
from ...common.models import LOAD_ERRORS, incomplete, not_finite, read_config, refuse_unfit, unloadable

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
# the mark of tensors that transformers' `initialize_weights` leaves alone
_INITIALIZED = "_is_hf_initialized"


def empty_model(model: ModelConfig, *, attention: str) -> PreTrainedModel:
    """Build the causal LM of `model.path` in evaluation mode, in float32, everything on meta. Raises: ModelError."""
    config = read_config(model.path)
    try:
        with torch.device("meta"):
            causal: PreTrainedModel = AutoModelForCausalLM.from_config(
                config, dtype=torch.float32, attn_implementation=attention, trust_remote_code=False
            )
    except LOAD_ERRORS as error:
        raise unloadable(model, error) from error
    causal.config.name_or_path = model.path
    return causal.eval()


def materialize(whole: nn.Module, device: torch.device) -> None:
    """Give every parameter on meta uninitialised memory on `device`. Tied parameters stay tied."""
    made: dict[nn.Parameter, nn.Parameter] = {}
    for module in whole.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and parameter.is_meta:
                if parameter not in made:
                    empty = torch.empty_like(parameter, device=device)
                    made[parameter] = nn.Parameter(empty, requires_grad=parameter.requires_grad)
                module._parameters[name] = made[parameter]


@dataclass(frozen=True, slots=True)
class _Rows:
    """A tensor of which rows [start, stop) can be had."""

    shape: list[int]
    read: Callable[[int, int], Tensor]


@dataclass(slots=True)
class _Source:
    """Tensors of files that make one parameter, or several."""

    # names in the files, and the converter's pattern that each matches
    keys: list[tuple[str, str]] = field(default_factory=list)
    # None: the only tensor is the parameter
    converter: WeightConverter | None = None


class ModelFiles:
    """The safetensors files of a model, and which of their tensors make which parameters."""

    def __init__(self, model: ModelConfig, causal: PreTrainedModel) -> None:
        """Read the headers of the files of `model`; `causal` is built of its configuration. Raises: ModelError."""
        self._model = model
        try:
            paths = _find_files(model.path)
            opened = [safe_open(path, "pt") for path in paths]
            # safe_open gives no mapping to iterate over
            self._files = {key: file for file in opened for key in file.keys()}  # noqa: SIM118
            self._sources = _match(list(self._files), causal)
        except LOAD_ERRORS as error:
            raise unloadable(model, error) from error
        refuse_unfit(model, causal, paths[0].parent)

    def compute_buffers(self, causal: PreTrainedModel) -> None:
        """Compute the buffers that no file holds, such as the frequencies of rotary embeddings, on the CPU."""
        for prefix, module in causal.named_modules():
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[name] = torch.empty_like(buffer, device="cpu")
                    setattr(module._buffers[name], _INITIALIZED, f"{prefix}.{name}".removeprefix(".") in self._sources)
            for parameter in module.parameters(recurse=False):
                setattr(parameter, _INITIALIZED, True)
        causal.initialize_weights()
        settle_long_rope(causal, self._model.max_context)

    @torch.no_grad()
    def fill(self, causal: PreTrainedModel) -> None:
        """Read this rank's rows of every parameter and stored buffer. Collective.

        Raises: ModelError for a parameter without a tensor, or of another shape; on all ranks, if one of them reads numbers
        that are not finite.
        """
        targets = causal.state_dict(keep_vars=True)
        # tied parameters have several names, and files any of them
        names = {target: name for name, target in reversed(targets.items())}
        finite: dict[str, bool] = {}
        try:
            for name, rows in self._tensors(causal):
                target = targets[name]
                if names[target] in finite:
                    continue
                if rows.shape != list(target.shape):
                    raise incomplete(self._model, causal, wrong=[f"{name} {rows.shape}"])
                own = target.to_local() if isinstance(target, DTensor) else target.detach()
                start, stop = _own_rows(target)
                if stop > start:
                    read = rows.read(start, stop)
                    # copy_ would repeat a tensor of one row
                    if read.shape != own.shape:
                        raise incomplete(self._model, causal, wrong=[f"{name} {list(read.shape)} of a rank"])
                    own.copy_(read)
                # a sum is one pass over the memory, and is finite only if every number is
                finite[names[target]] = bool(torch.isfinite(own.sum(dtype=torch.float32)))
        except LOAD_ERRORS as error:
            raise unloadable(self._model, error) from error
        missing = [name for name, _ in causal.named_parameters() if name not in finite and not is_of_adapter(name)]
        if missing:
            raise incomplete(self._model, causal, missing=missing)
        order = [name for name, target in targets.items() if names[target] == name]
        self._raise_together([name for name in order if not finite.get(name, True)], order)

    def _raise_together(self, broken: list[str], names: list[str]) -> None:
        """Raise ModelError if one of the ranks found tensors with numbers that are not finite."""
        found = torch.tensor([float(name in broken) for name in names])
        if dist.is_initialized():
            dist.all_reduce(found)
        if found.any():
            raise not_finite(self._model, [name for name, count in zip(names, found.tolist(), strict=True) if count])

    def _tensors(self, causal: PreTrainedModel) -> Iterator[tuple[str, _Rows]]:
        """Yield what the files hold, by the names in the model. Converted tensors are whole while the caller holds them."""
        for first, source in self._sources.items():
            if source.converter is None:
                yield first, self._stored(source.keys[0][0])
                continue
            if _stacks(source.converter):
                experts = len(source.keys) // len({pattern for _, pattern in source.keys})
                shape = [experts, *causal.get_parameter(first).shape[1:]]
                yield first, _Rows(shape, partial(self._stack, causal, first, source))
                continue
            for name, tensor in self._convert(causal, first, source, source.keys):
                yield name, _Rows(list(tensor.shape), partial(_rows_of, tensor))

    def _stack(self, causal: PreTrainedModel, first: str, source: _Source, start: int, stop: int) -> Tensor:
        """Read experts [start, stop) of a parameter that stacks them, and no others."""
        passed: Counter[str] = Counter()
        own = []
        for key, pattern in source.keys:
            if start <= passed[pattern] < stop:
                own.append((key, pattern))
            passed[pattern] += 1
        ((_, tensor),) = self._convert(causal, first, source, own)
        return tensor

    def _convert(
        self, causal: PreTrainedModel, first: str, source: _Source, keys: list[tuple[str, str]]
    ) -> Iterator[tuple[str, Tensor]]:
        """Read the tensors `keys` and yield what the source's converter makes of them."""
        converter = deepcopy(source.converter)
        assert converter is not None
        for key, pattern in keys:
            read = partial(self._files[key].get_tensor, key)
            # transformers takes anything that can be called, and declares less
            converter.add_tensor(first, key, pattern, read)  # pyright: ignore[reportArgumentType]
        for name, made in converter.convert(first, model=causal, config=causal.config).items():
            yield name, made[0] if isinstance(made, list) else made

    def _stored(self, key: str) -> _Rows:
        stored = self._files[key].get_slice(key)
        shape = list(stored.get_shape())
        if not shape:
            return _Rows(shape, lambda start, stop: self._files[key].get_tensor(key))
        return _Rows(shape, lambda start, stop: stored[start:stop])


def _stacks(converter: WeightConverter) -> bool:
    """Whether the converter stacks tensors to rows, each of which depends on its own tensors alone."""
    stack, *others = converter.operations
    if len(converter.target_patterns) != 1 or not isinstance(stack, MergeModulelist) or stack.dim != 0:
        return False
    joins = [isinstance(each, Concatenate) and each.dim > 0 for each in others]
    turns = [isinstance(each, Transpose) and min(each.dim0, each.dim1) > 0 for each in others]
    return all(join or turn for join, turn in zip(joins, turns, strict=True))


def _rows_of(tensor: Tensor, start: int, stop: int) -> Tensor:
    return tensor[start:stop]


def _find_files(path: str) -> list[Path]:
    """Find the model's files in a folder or on the hub, and download them if need be. Raises: OSError."""
    try:
        return [Path(str(cached_file(path, WEIGHTS)))]
    except OSError as error:
        try:
            index = json.loads(Path(str(cached_file(path, INDEX))).read_bytes())
        except OSError:
            # that there is no index either is not what is wrong
            raise error from None
    return [Path(str(cached_file(path, name))) for name in sorted(set(index["weight_map"].values()))]


def _match(keys: list[str], causal: PreTrainedModel) -> dict[str, _Source]:
    """Find what makes the parameters and buffers of `causal`, by the first name of those that belong together."""
    transforms = get_model_conversion_mapping(causal)
    renamings = [each for each in transforms if isinstance(each, WeightRenaming)]
    converters = [each for each in transforms if isinstance(each, WeightConverter)]
    by_pattern = {pattern: converter for converter in converters for pattern in converter.source_patterns}
    own = causal.state_dict()
    sources: dict[str, _Source] = {}
    for key in sorted(keys, key=dot_natural_key):
        name, pattern = rename_source_key(key, renamings, converters, causal.base_model_prefix, own)
        if name not in own and key in own:
            name, pattern = rename_source_key(key, [], [], causal.base_model_prefix, own)
        if name in own:
            source = sources.setdefault(name, _Source(converter=by_pattern[pattern] if pattern else None))
            source.keys.append((key, pattern or key))
    # what was used is what checkpoints have to revert
    setattr(causal, "_weight_conversions", [each for each in transforms if each.was_used()])  # noqa: B010
    return sources


def _own_rows(target: Tensor) -> tuple[int, int]:
    """Return the rows of the whole tensor that this rank holds: FSDP2 gives the first ranks ceil(rows / ranks) of them."""
    if not isinstance(target, DTensor):
        return 0, max(1, target.shape[0]) if target.dim() else 1
    ((rank, ranks),) = [
        (target.device_mesh.get_local_rank(index), target.device_mesh.size(index))
        for index, placement in enumerate(target.placements)
        if placement.is_shard(0)
    ]
    each = -(-target.shape[0] // ranks)
    return min(rank * each, target.shape[0]), min((rank + 1) * each, target.shape[0])

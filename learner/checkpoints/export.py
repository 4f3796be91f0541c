"""A model in safetensors files, as transformers and vLLM load it, out of the tensors of a policy or of a checkpoint.

Layer by layer: never more of the model is in memory than one file's worth, and one layer.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from ...common.adapters import BASE, is_factor
from ...common.base_weights import BaseWeights
from ...common.config.sections import ModelConfig
from ...common.json_object import JsonObject
from ...common.model_folder import INDEX
from ...common.models import DTYPES
from .adapter_files import ADAPTER_CONFIG, base_path
from .checkpoint import MODEL, open_policy

# largest file of a model, as transformers makes them
FILE_BYTES = 5 * 10**9
# everything up to the number of the layer
_LAYER = re.compile(r"^.*?\.\d+\.")


class ModelWriter:
    """Writes the tensors of a model, one after the other, into files of at most FILE_BYTES each.

    The files have hidden names until `close`, whose last act makes the model complete. One process uses it.

    Example:
        writer = ModelWriter(folder)
        writer.add("model.embed_tokens.weight", embedding)
        writer.close()
    """

    def __init__(self, folder: Path, file_bytes: int = FILE_BYTES) -> None:
        self._folder, self._file_bytes = folder, file_bytes
        self._pending: dict[str, Tensor] = {}
        self._parts: list[Path] = []
        self._places: dict[str, int] = {}
        self._num_bytes = 0

    def add(self, name: str, tensor: Tensor) -> None:
        """Take a tensor, and write a file if it would become too large. Raises: OSError, SafetensorError."""
        # a view of a larger tensor would be written whole, and would keep it in memory
        whole = tensor.to("cpu").clone(memory_format=torch.contiguous_format)
        if self._pending and sum(each.nbytes for each in self._pending.values()) + whole.nbytes > self._file_bytes:
            self._write()
        self._pending[name] = whole
        self._places[name] = len(self._parts)
        self._num_bytes += whole.nbytes

    def _write(self) -> None:
        self._parts.append(self._folder / f".part-{len(self._parts):05d}.safetensors")
        save_file(self._pending, self._parts[-1], metadata={"format": "pt"})
        self._pending.clear()
        # safetensors makes files that nobody else may read; a model is as readable as any file that is made here
        ordinary = self._folder / ".ordinary"
        ordinary.touch()
        shutil.copymode(ordinary, self._parts[-1])
        ordinary.unlink()

    def close(self) -> None:
        """Write what is left and give the files their names. Raises: OSError, SafetensorError."""
        self._write()
        if len(self._parts) == 1:
            self._parts[0].rename(self._folder / MODEL)
            return
        names = [f"model-{at:05d}-of-{len(self._parts):05d}.safetensors" for at in range(1, len(self._parts) + 1)]
        for part, name in zip(self._parts, names, strict=True):
            part.rename(self._folder / name)
        placed = {name: names[at] for name, at in sorted(self._places.items())}
        index = {"metadata": {"total_size": self._num_bytes}, "weight_map": placed}
        scratch = self._folder / f".{INDEX}"
        scratch.write_text(json.dumps(index, indent=2) + "\n")
        scratch.rename(self._folder / INDEX)

    def abandon(self) -> None:
        """Remove what has been written. Raises: OSError."""
        for part in self._parts:
            part.unlink(missing_ok=True)


def write_model(writer: ModelWriter | None, causal: PreTrainedModel, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Write whole tensors under the names, and in the shapes, of the model's own files.

    The tensors are exhausted in any case, also without a writer: other ranks may take part in gathering them.
    Raises: OSError, SafetensorError.
    """
    failure: Exception | None = None
    for layer in _by_layer(tensors):
        if writer is None or failure is not None:
            continue
        try:
            for name, tensor in revert_weight_conversion(causal, layer).items():
                writer.add(name, tensor)
        except (OSError, SafetensorError) as error:
            failure = error
    if failure is not None:
        raise failure
    if writer is not None:
        writer.close()


def export_checkpoint(checkpoint: Path, out: Path, *, dtype: torch.dtype | None, file_bytes: int = FILE_BYTES) -> None:
    """Make the folder `out` a model of the checkpoint's policy, with its configuration and tokenizer.

    dtype: of the parameters; None: that of the run. Raises: ModelError; OSError when `out` exists or cannot be written.
    """
    out.mkdir(parents=True)
    try:
        config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
        wanted = DTYPES[config["dtype"]] if dtype is None else dtype
        with torch.device("meta"):
            causal = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(checkpoint, trust_remote_code=False))
        parameters = {name for name, _ in causal.named_parameters()}
        with open_policy(checkpoint) as (stored, names):
            read = ((name, stored.read(place)) for name, place in names.items())
            if BASE in names:
                read = _merged(base_path(checkpoint), dict(read), wanted)
            typed = ((name, tensor.to(wanted) if name in parameters else tensor) for name, tensor in read)
            write_model(ModelWriter(out, file_bytes), causal, typed)
        _copy_rest(checkpoint, out, config | {"dtype": str(wanted).removeprefix("torch.")})
    except BaseException:
        shutil.rmtree(out)
        raise


def _merged(base: str, adapters: dict[str, Tensor], dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """Yield the weights that adapters make of their base, as the engines had them in `dtype`. Raises: ModelError."""
    narrow = {name: tensor.to(dtype) if is_factor(name) else tensor for name, tensor in adapters.items()}
    yield from BaseWeights.load(ModelConfig(path=base), dtype, torch.device("cpu")).merged(narrow)


def _copy_rest(checkpoint: Path, out: Path, config: JsonObject) -> None:
    """Everything that is neither tensors nor the learner's state."""
    for path in checkpoint.iterdir():
        if path.suffix != ".safetensors" and path.name not in ("state.json", INDEX, ADAPTER_CONFIG):
            shutil.copyfile(path, out / path.name)
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def _by_layer(tensors: Iterable[tuple[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
    """Collect the neighbours of one layer: some families store as one tensor what is several here, or the reverse."""
    layer: dict[str, Tensor] = {}
    prefix = ""
    for name, tensor in tensors:
        match = _LAYER.match(name)
        present = match.group() if match else name
        if layer and present != prefix:
            yield layer
            layer = {}
        layer[name], prefix = tensor, present
    if layer:
        yield layer

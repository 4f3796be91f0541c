"""Models that are refused before anything starts, because engine and learner would not compute the same policy with them.

Everything here reads config.json and safetensors files without torch, so that the checks before a start can afford it.
`prolong bench architectures` tries every family (docs/architectures.md); what it finds apart is mended, or listed here.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple

from .json_object import JsonObject

# model_type of config.json -> why it cannot be trained here
REFUSED = {
    "ernie4_5_moe": "vLLM sends some tokens to other experts than transformers: actor and learner compute different policies",
    "gpt_neox": "vLLM's first layer gives other numbers than transformers': actor and learner compute different policies",
    "phimoe": "vLLM runs it through transformers with a router of another form, and its engine dies at the first prompt",
}
# families whose head is tied to the embedding when config.json does not say
TIED_BY_DEFAULT = {"bloom", "cohere", "cohere2", "falcon", "gemma", "gemma2", "gemma3_text", "gpt2", "lfm2", "opt"}
HEAD = "lm_head.weight"
EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight", "embed_in.weight")
_CHUNK = 1 << 20
# longest header that is read, as in safetensors' own reader
_MAX_HEADER = 100_000_000


def model_refusal(config: JsonObject) -> str | None:
    """Why a model with this config.json cannot be trained here, and what to do instead; None if nothing speaks against it."""
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in REFUSED:
        return None
    return f"models of type {kind} cannot be trained here: {REFUSED[kind]}"


def head_refusal(folder: Path, config: JsonObject) -> str | None:
    """Why the folder's weights contradict its config.json about the head; None if they do not, or cannot be read.

    With `tie_word_embeddings` vLLM takes the embedding as the head and never looks at a stored head, while transformers loads
    a head that is stored: the actor would sample from another model than the learner's.
    """
    if not ties_head(config):
        return None
    try:
        tensors = stored_tensors(folder)
        head, embedding = tensors.get(HEAD), stored_embedding(tensors)
        if head is None or embedding is None or same_bytes(head, embedding):
            return None
    except (OSError, ValueError, struct.error):
        # who loads the model says what is wrong with its files
        return None
    return (
        f"config.json says tie_word_embeddings, but {head.file.name} holds a {HEAD} that differs from the embedding, so that "
        'engine and learner would use different heads; write "tie_word_embeddings": false into config.json to train the '
        f"stored head, or remove {HEAD} from the file to use the embedding"
    )


def ties_head(config: JsonObject) -> bool:
    """Whether the model's head is its embedding."""
    return bool(config.get("tie_word_embeddings", config.get("model_type") in TIED_BY_DEFAULT))


class StoredTensor(NamedTuple):
    """A place in a safetensors file."""

    file: Path
    dtype: str
    start: int  # of its bytes in the file
    num_bytes: int
    shape: list[int]


def stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """The tensors of all safetensors files in `folder`, by name. Raises: OSError, ValueError, struct.error."""
    return tensors_in(sorted(folder.glob("*.safetensors")))


def tensors_in(files: Iterable[Path]) -> dict[str, StoredTensor]:
    """The tensors of these safetensors files, by name. Raises as `stored_tensors`."""
    tensors = {}
    for file in files:
        with file.open("rb") as opened:
            (length,) = struct.unpack("<Q", opened.read(8))
            if length > _MAX_HEADER:
                raise ValueError(f"{file}: a header of {length} bytes")
            header = json.loads(opened.read(length))
        for name, entry in header.items():
            if name != "__metadata__":
                start, end = entry["data_offsets"]
                tensors[name] = StoredTensor(file, entry["dtype"], 8 + length + start, end - start, entry["shape"])
    return tensors


def stored_embedding(tensors: Mapping[str, StoredTensor]) -> StoredTensor | None:
    """The embedding of the tokens among the tensors of a model."""
    return next((tensor for name, tensor in tensors.items() if name.endswith(EMBEDDINGS)), None)


def same_bytes(left: StoredTensor, right: StoredTensor) -> bool:
    """Whether two stored tensors hold the same values in the same type. Reads up to the first difference."""
    if (left.dtype, left.num_bytes) != (right.dtype, right.num_bytes):
        return False
    with left.file.open("rb") as one, right.file.open("rb") as other:
        one.seek(left.start)
        other.seek(right.start)
        return all(_same_chunk(one, other, min(_CHUNK, left.num_bytes - at)) for at in range(0, left.num_bytes, _CHUNK))


def _same_chunk(one: BinaryIO, other: BinaryIO, size: int) -> bool:
    return one.read(size) == other.read(size)

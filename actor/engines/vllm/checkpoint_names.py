"""The parameters of an update under the names and in the shapes of the model's checkpoints, which vLLM's loaders expect.

transformers keeps some models in another form than their files: the experts of a Mixtral lie in one tensor per layer, and
`mlp` stands where the files say `block_sparse_moe`. The learner publishes what it holds; transformers' own table of
conversions, reversed as it is when a model is saved, leads back.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.conversion_mapping import get_checkpoint_conversion_mapping
from transformers.core_model_loading import revert_weight_conversion

from ....common.errors import ModelError

NamedTensor = tuple[str, torch.Tensor]


class CheckpointNames:
    """The conversion for one model; `path` is its folder or hub name.

    Example: CheckpointNames("mixtral").convert([("model.layers.0.mlp.gate.weight", w)])
             -> [("model.layers.0.block_sparse_moe.gate.weight", w)]
    """

    def __init__(self, path: str) -> None:
        """Look the model up in the table of conversions. Raises ModelError when transformers has no such model."""
        try:
            config = AutoConfig.from_pretrained(path, trust_remote_code=False)
            self._skeleton = _skeleton(config) if _has_conversions(config) else None
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise ModelError(f"model.path = {path!r}: transformers cannot build this model ({error})") from error
        # whether any name or shape is another one in the files
        self.differ = self._skeleton is not None

    def convert(self, tensors: Iterable[NamedTensor]) -> Iterator[NamedTensor]:
        """All parameters of an update: a tensor of the files may be made of several, so they are converted together."""
        assert self._skeleton is not None
        yield from revert_weight_conversion(self._skeleton, dict(tensors)).items()


def _has_conversions(config: PreTrainedConfig) -> bool:
    """Whether the table names this model or a part of it; building the model takes a second, which most need not wait."""
    parts = [config, config.get_text_config(decoder=True)]
    names = {name for part in parts for name in (part.model_type, *(part.architectures or ()))}
    return any(get_checkpoint_conversion_mapping(name) is not None for name in names)


def _skeleton(config: PreTrainedConfig) -> PreTrainedModel:
    """The model without memory for its weights."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, trust_remote_code=False)

"""Low-rank adapters as learner and engines know them: the names in an update, and the weight that an adapter makes.

    W = W0 + scale B A        [out, in] = [out, in] + scale [out, rank] [rank, in]

Learner and engine compute this one function of the same W0, A and B, so that they have the same weights: in half precision W
is rounded, and a layer that added B A x to W0 x would be another policy than one with the rounded sum.
Source: LoRA, arXiv 2106.09685.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

# the factors, as parameters beside `weight` of the layer that they adapt
DOWN, UP = "lora_A", "lora_B"
# buffers of the whole model: the fingerprint of the base (common/model_folder.py), and the scale (`stored_scale`)
BASE, SCALE = "lora_base", "lora_scale"


def is_factor(name: str) -> bool:
    """Whether a parameter is a factor of the policy's adapters."""
    return name.rpartition(".")[2] in (DOWN, UP)


def is_of_adapter(name: str) -> bool:
    """Whether a parameter is a factor of any adapter, the reference's included: the files of a model hold none."""
    return name.endswith((DOWN, UP))


def is_adapter_update(names: Iterable[str]) -> bool:
    """Whether tensors of these names are adapters of a base that the receiver has, not whole weights."""
    return BASE in names


def stored_scale(scale: float) -> Tensor:
    """The scale as it is stored and sent: the bits of a float64 in an integer, which no change of dtype touches."""
    return torch.tensor([scale], dtype=torch.float64).view(torch.int64)


def read_scale(stored: Tensor) -> float:
    """The scale that `stored_scale` made."""
    return float(stored.view(torch.float64))


@torch.no_grad()
def merged_weight(base: Tensor, down: Tensor, up: Tensor, scale: float) -> Tensor:
    """Compute W [out, in] in the dtype of `base`; the sum is taken in float32 or better."""
    wide = torch.promote_types(base.dtype, torch.float32)
    # as a batch of one: selective recomputation keeps the results of the plain product, here a copy of the model
    product = torch.bmm(up.to(wide)[None], down.to(wide)[None])[0]
    return torch.add(base, product, alpha=scale, out=product).to(base.dtype)

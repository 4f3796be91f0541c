"""FSDP2 of a policy: every layer, and the rest of the model as one, lies in shards on the ranks.

Masters and their gradients are float32; a layer is gathered in the dtype of the computation for as long as it computes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard


def shard_module(
    whole: nn.Module,
    layers: set[str],
    *,
    mesh: DeviceMesh | None,
    compute: torch.dtype,
    offload: bool,
    reshard: bool,
    trainable: bool,
) -> None:
    """Shard every submodule whose class is one of `layers`, then the rest of `whole`.

    mesh: the ranks to shard over; of two dimensions, shards lie along the second and copies along the first. Default: all.
    reshard: shard a layer again after its forward pass; without a backward pass it always is.
    """
    precision = MixedPrecisionPolicy(param_dtype=compute, reduce_dtype=torch.float32)
    # pages can only be pinned where there is a device that reads them
    offloading = CPUOffloadPolicy(pin_memory=torch.cuda.is_available()) if offload else OffloadPolicy()
    shared = {"mesh": mesh, "offload_policy": offloading}
    for module in list(_outermost(whole, layers)):
        fully_shard(module, mp_policy=precision, reshard_after_forward=reshard or not trainable, **shared)
    # the inputs of the whole model are not cast: a temperature of 1.2 would become bfloat16's 1.203
    fully_shard(whole, mp_policy=replace(precision, cast_forward_inputs=False), reshard_after_forward=True, **shared)


def _outermost(module: nn.Module, names: set[str]) -> Iterator[nn.Module]:
    """Yield the modules of these classes that lie in no other one: Mamba names its layers and what is within them."""
    if type(module).__name__ in names:
        yield module
        return
    for child in module.children():
        yield from _outermost(child, names)


def keep_rest_gathered(whole: nn.Module, keep: bool) -> None:
    """Say whether what belongs to no layer, embedding and head, stays gathered from the next forward to its backward pass.

    They are the last that the forward pass uses and the first and last of the backward pass. Without a backward pass they would
    stay gathered for ever, and `parameters()` would yield them instead of their shards.
    """
    if isinstance(whole, FSDPModule):
        whole.set_reshard_after_forward(not keep, recurse=False)


def reshard_all(whole: nn.Module) -> None:
    """Give up gathered parameters, so that `parameters()` yields shards. Without FSDP2 nothing happens."""
    for module in whole.modules():
        if isinstance(module, FSDPModule):
            module.reshard()

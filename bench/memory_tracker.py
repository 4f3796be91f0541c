"""What one rank of the learner allocates, without memory, weights or GPUs: the learner's own code on fake tensors.

config.json --> build_policy, Trainer.train, Policy.full_parameters in FakeTensorMode, collectives of torch's `fake` group
            --> every storage that lives, and the most that lived in each phase

A GPU's path is taken where it differs from a CPU's: attention over documents of unequal length, and products of half-precision
operands in float32. The fake tensors say that they are on a CPU, because FSDP2 would want streams of a real GPU.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import TypeVar
from unittest import mock

import numpy as np
import torch
from torch import Tensor
from torch import distributed as dist
from torch._guards import active_fake_mode
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoConfig, PreTrainedModel

from ..common import half_head
from ..common.config.choices import Offload
from ..common.config.sections import Config, ModelConfig
from ..common.json_object import JsonObject
from ..common.models import DTYPES
from ..common.types import (
    Batch,
    FinishReason,
    Group,
    Prompt,
    Rollout,
    Sampling,
    TicketKind,
    ValidationSetting,
    Verdict,
    VerdictStatus,
    VersionSpan,
)
from ..learner import step
from ..learner.algorithm import token_stats
from ..learner.batches.packing import MicroBatch
from ..learner.model import policy as policy_module
from ..learner.model.loading import ModelFiles
from ..learner.ranks import Ranks
from ..learner.step import Trainer
from .learner_step import build_trainer

CPU = torch.device("cpu")
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrackedMemory:
    """Bytes of rank 0 on its GPU."""

    resident: int  # after a step: masters, moments, gradients, reference
    reference: int  # most in the forward pass of the reference
    step: int  # most in a forward and backward pass of a micro-batch and the optimizer
    publish: int  # most while weights are gathered, without the buckets that they are copied to

    @property
    def peak(self) -> int:
        return max(self.reference, self.step, self.publish)


class StorageTracker(MemTracker):
    """torch's tracker of storages, without its hooks on modules, which FSDP2's own hooks would confuse."""

    def __enter__(self) -> StorageTracker:
        self._fake_mode_on_entry = active_fake_mode()
        self._track_resize()
        TorchDispatchMode.__enter__(self)
        return self

    def __exit__(self, *details: object) -> None:
        self._restore_resize()
        TorchDispatchMode.__exit__(self, *details)  # pyright: ignore[reportArgumentType]

    def peak_since(self) -> int:
        """The most bytes since the last call."""
        peak = self._peak_mem.get(CPU, 0)
        self._peak_mem, self._peak_mem_snap = {}, {}
        return peak

    def living(self) -> int:
        return self.get_tracker_snapshot("current").get(CPU, {}).get("Total", 0)


@contextlib.contextmanager
def fake_group(size: int) -> Iterator[Ranks]:
    """Rank 0 of so many ranks that are not there."""
    dist.init_process_group("fake", rank=0, world_size=size, store=FakeStore())
    try:
        mesh = init_device_mesh("cpu", (size,), mesh_dim_names=("shards",))
        yield Ranks(rank=0, size=size, mesh=mesh)
    finally:
        dist.destroy_process_group()


def track_learner(cfg: Config, size: int) -> TrackedMemory:
    """Run one rank of `size` on the model of `cfg.model.path`, of which only config.json is read.

    Micro-batches are full: they hold about `learner.token_budget` tokens, nearly all of them completions.
    """
    assert cfg.learner.offload is Offload.none, "fake tensors do not tell host from device"
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with fake_group(size) as ranks, _gpu_path(fake), fake, StorageTracker() as tracker:
        trainer = build_trainer(cfg, ranks, CPU)
        _prime(trainer)
        peaks: dict[str, int] = {}
        with mock.patch.object(Trainer, "_fill_reference", _noting(Trainer._fill_reference, tracker, peaks, "reference")):
            tracker.peak_since()
            trainer.train(full_batch(cfg, size))
        stepped, resident = tracker.peak_since(), tracker.living()
        for _ in range(2):
            tracker.peak_since()
            for _ in trainer.policy.full_parameters(DTYPES[cfg.model.dtype]):
                pass
        publish = tracker.peak_since()
        return TrackedMemory(resident=resident, reference=peaks.get("reference", 0), step=stepped, publish=publish)


def _prime(trainer: Trainer) -> None:
    """Give the trainer gradients and moments, as it has them from the second micro-batch of its second update on.

    The first update also traces how DTensors are sharded, on tensors of full size that nobody allocates.
    """
    trained = [parameter for parameter in trainer.policy.parameters() if parameter.requires_grad]
    gradients = [torch.zeros_like(parameter) for parameter in trained]
    for parameter, gradient in zip(trained, gradients, strict=True):
        parameter.grad = gradient
    norm = torch.nn.utils.get_total_norm(gradients)
    norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
    torch.nn.utils.clip_grads_with_norm_(trained, 1.0, norm)
    trainer.optimizer.step()
    trainer.optimizer.zero_grad = _keep_gradients


def _keep_gradients(set_to_none: bool = True) -> None:
    """Stand in for `zero_grad` of the only micro-batch that is tracked."""


def _noting(method: Callable[..., T], tracker: StorageTracker, peaks: dict[str, int], phase: str) -> Callable[..., T]:
    """`method`, which leaves its peak in `peaks`."""

    def noted(*args: object) -> T:
        result = method(*args)
        peaks[phase] = tracker.peak_since()
        return result

    return noted


class NoFiles(ModelFiles):
    """The files of a model that has none."""

    def __init__(self, model: ModelConfig, _: PreTrainedModel) -> None:
        self._model, self._sources = model, {}

    def fill(self, causal: PreTrainedModel) -> None:
        """Leave the parameters as they are."""


@contextlib.contextmanager
def _gpu_path(fake: FakeTensorMode) -> Iterator[None]:
    """Replace what needs weights, numbers or a GPU."""

    def product(left: Tensor, right: Tensor) -> Tensor:
        return left.new_empty((left.shape[0], right.shape[1]), dtype=torch.promote_types(left.dtype, torch.float32))

    def ones(tensors: dict[str, Tensor]) -> dict[str, list[float]]:
        return {name: [1.0] * len(tensor) for name, tensor in tensors.items()}

    packed = Trainer._pack

    def pack_for_gpu(trainer: Trainer, samples: list) -> list[MicroBatch]:
        micros = [_faked(micro, fake) for micro in packed(trainer, samples)]
        for micro in micros:
            if micro.plan is not None:
                micro.plan.varlen = True
        return micros

    def nothing(_: object) -> None:
        pass

    with contextlib.ExitStack() as patches:
        for owner, name, instead in (
            (policy_module, "ModelFiles", NoFiles),
            (policy_module, "install_kernels", nothing),
            (half_head, "head_product", product),
            (token_stats, "read_together", ones),
            # it would measure the speed of this machine
            (step, "perf_metrics", lambda *_, **__: {}),
            (Trainer, "_pack", pack_for_gpu),
        ):
            patches.enter_context(mock.patch.object(owner, name, instead))
        yield


def _faked(value: T, fake: FakeTensorMode) -> T:
    """A copy of a dataclass whose tensors are fake."""
    changed = {}
    for item in fields(value):  # pyright: ignore[reportArgumentType]
        part = getattr(value, item.name)
        if isinstance(part, Tensor):
            changed[item.name] = fake.from_tensor(part)
        elif is_dataclass(part):
            changed[item.name] = _faked(part, fake)
    return replace(value, **changed)  # pyright: ignore[reportArgumentType]


def full_batch(cfg: Config, size: int, *, prompt: int = 16, micro_batches: int = 1) -> Batch:
    """A batch that fills so many micro-batches of the token budget on every rank, for each optimizer update.

    A group fills a rank's share of the budget: packing splits larger ones.
    """
    completion = max((cfg.learner.token_budget // size - prompt) // cfg.sampling.n, 1)
    groups = micro_batches * size * size * cfg.learner.minibatches
    return Batch(generation=1, version=0, groups=[_group(cfg, ordinal, prompt, completion) for ordinal in range(groups)])


def _group(cfg: Config, ordinal: int, prompt: int, completion: int) -> Group:
    tokens = np.zeros(completion, dtype="<i4").tobytes()
    rollouts = [
        Rollout(
            token_ids=tokens,
            behaviour_logprobs=np.full(completion, -1.0, dtype="<f4").tobytes(),
            spans=[VersionSpan(version=0, start=0, end=completion)],
            finish_reason=FinishReason.stop,
            verdict=Verdict(reward=float(i % 2), status=VerdictStatus.ok, verifier="none", seconds=0.0),
        )
        for i in range(cfg.sampling.n)
    ]
    source = Prompt(
        uid=str(ordinal),
        domain="d",
        task="t",
        text="",
        token_ids=np.zeros(prompt, dtype="<i4").tobytes(),
        verifier="none",
    )
    return Group(
        ordinal=ordinal,
        kind=TicketKind.train,
        generation=1,
        prompt=source,
        setting=ValidationSetting.none,
        sampling=Sampling(n=cfg.sampling.n, temperature=1.0, top_p=1.0, max_tokens=completion),
        rollouts=rollouts,
        actor="a",
        seconds=0.0,
    )


def write_config(folder: Path, settings: JsonObject) -> Path:
    """A model folder that holds nothing but config.json."""
    config = AutoConfig.for_model(**settings)
    config.save_pretrained(folder)
    return folder

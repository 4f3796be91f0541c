"""The checks of a run on the GPUs of this machine: are there enough, and does it fit? Notes for what works, but badly."""

from __future__ import annotations

import os
from collections.abc import Iterator

from ...common.config.choices import EngineKind
from ...common.config.sections import Config
from ...common.errors import ConfigError, ModelError
from ..gpus import Gpu, computes_on_gpu, probe_gpus, visible_gpus
from ..model_check import read_config_of
from ..placement import check_gpus, shares_gpu
from ..plan.machine_fit import GIB, MachinePlan, plan_machine
from ..plan.memory_command import plan_verdict
from ..plan.model_shape import ModelShape

HALF_FROM = (8, 0)  # compute capability from which GPUs compute in bfloat16


def settle_gpus(cfg: Config) -> list[str]:
    """Check the GPUs of this machine, and lower `actor.gpu_memory_utilization` where learner and actor share one.

    Returns what the user should know. Nothing is asked for a run on the CPU. Raises: ConfigError, with the sum.
    """
    if not computes_on_gpu(cfg.model.device):
        return []
    number = len(visible_gpus(os.environ))
    check_gpus(cfg, number)
    report = probe_gpus()
    if not report.gpus:
        raise ConfigError(f"model.device = {cfg.model.device.name}: torch can use no GPU here ({report.problem})")
    notes = [*_dtype_notes(cfg, report.gpus)]
    try:
        shape = ModelShape.of(read_config_of(cfg.model.path))
    except ModelError as error:
        return [*notes, f"its memory is not counted: {error}"]
    plan = plan_machine(shape, cfg, number, min(card.total_bytes for card in report.gpus))
    _refuse_hopeless(plan)
    if not plan.in_memory:
        notes.append(f"memory may not suffice: the run {plan_verdict(plan)}")
    return [*notes, *_share(cfg, plan, number)]


def _share(cfg: Config, plan: MachinePlan, number: int) -> Iterator[str]:
    """Give the actor the part of the GPU that the learner leaves."""
    if not shares_gpu(cfg, number):
        return
    if plan.actor is None:
        yield "learner and actor share the GPU, and actor.engine=transformers takes memory as it needs it"
        return
    given, cfg.actor.gpu_memory_utilization = cfg.actor.gpu_memory_utilization, plan.actor.share
    # a fixed size: vLLM would measure what is free while the learner beside it still grows
    room = int(100 * plan.actor.kv_cache / GIB) / 100
    cfg.actor.kv_cache_gib = min(cfg.actor.kv_cache_gib or room, room)
    lowered = f" (instead of {given:g})" if plan.actor.share < given else ""
    yield (
        f"learner and actor share the GPU: of {plan.total_bytes / GIB:.0f} GiB the learner takes "
        f"{plan.learner.peak / GIB:.1f}, vLLM gets actor.gpu_memory_utilization = {plan.actor.share:g} of it{lowered}, "
        f"with room for {plan.actor.kv_tokens:,} tokens"
    )


def _refuse_hopeless(plan: MachinePlan) -> None:
    """Raise ConfigError for a run that cannot work: its state alone, or an actor's weights, exceed the memory."""
    actor = plan.actor
    hopeless = plan.learner.resident + plan.learner.gathered > plan.total_bytes or (actor is not None and actor.kv_cache <= 0)
    if hopeless:
        raise ConfigError(f"this run {plan_verdict(plan)}; `prolong plan memory` shows the sum")


def _dtype_notes(cfg: Config, cards: list[Gpu]) -> Iterator[str]:
    dtype = cfg.model.dtype
    if dtype == "float32":
        yield (
            "model.dtype = float32 on a GPU: products run at about a fifteenth of bfloat16's speed (an H100: 67 against 989 "
            "TFLOP/s), and attention without its fast kernels, here and in vLLM; masters are float32 with bfloat16 too"
        )
    oldest = min(card.capability for card in cards)
    if dtype == "bfloat16" and oldest < HALF_FROM:
        yield (
            f"model.dtype = bfloat16: a GPU here has compute capability {oldest[0]}.{oldest[1]}, and bfloat16 is fast from "
            "8.0 on; model.dtype=float16 is the choice for it"
        )
    if dtype == "float16" and oldest >= HALF_FROM and cfg.actor.engine is EngineKind.vllm:
        yield "model.dtype = float16: bfloat16 needs no scaling of the loss, and these GPUs have it"

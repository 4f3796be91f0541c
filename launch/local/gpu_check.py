"""The checks of a run on the GPUs of this machine: are there enough, and does it fit? Notes for what works, but badly."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace

from ...common.config.actors import actors_here, in_pool
from ...common.config.choices import EngineKind
from ...common.config.sections import Config
from ...common.errors import ConfigError, ModelError
from ..gpus import Gpu, computes_on_gpu, probe_gpus, visible_gpus
from ..model_check import read_config_of
from ..placement import check_gpus, gpus_of_actor, place_on_gpus, shares_gpu
from ..plan.learner_memory import LearnerMemory
from ..plan.machine_fit import GIB, MachinePlan, plan_machine
from ..plan.memory_command import plan_verdict
from ..plan.model_shape import ModelShape

HALF_FROM = (8, 0)  # compute capability from which GPUs compute in bfloat16


def settle_gpus(cfg: Config) -> list[str]:
    """Check the GPUs of this machine, and lower the actor's `gpu_memory_utilization` where learner and actor share one.

    Returns what the user should know. Nothing is asked for a run on the CPU. Raises: ConfigError, with the sum.
    """
    devices = {cfg.model.device, *(actor.cfg.model.device for actor in actors_here(cfg))}
    if not any(computes_on_gpu(device) for device in devices):
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
    for pool, plan in _plans(shape, cfg, report.gpus):
        named = f"pool {pool}: " if pool else ""
        _refuse_hopeless(plan, named)
        if not plan.in_memory:
            notes.append(f"{named}memory may not suffice: the run {plan_verdict(plan)}")
        notes += [named + note for note in _share(cfg, pool, plan, number)]
    return notes


def _plans(shape: ModelShape, cfg: Config, cards: Sequence[Gpu]) -> Iterator[tuple[str, MachinePlan]]:
    """Yield the pool of each kind of actor with GPUs, and the memory of both sides, each on the smallest of its cards."""
    everywhere = min(card.total_bytes for card in cards)
    if not cfg.pools:
        yield "", plan_machine(shape, cfg, len(cards), everywhere)
        return
    smallest = {
        # torch may find fewer cards than a pool names
        name: min((cards[index].total_bytes for index in indices if index < len(cards)), default=everywhere)
        for name, indices in place_on_gpus(cfg, len(cards)).items()
    }
    of_pools = {actor.pool: smallest.get(actor.name, everywhere) for actor in actors_here(cfg) if gpus_of_actor(actor.cfg)}
    alone = replace(cfg, pools={}, launch=replace(cfg.launch, actors=0))
    if computes_on_gpu(cfg.model.device):
        yield "", plan_machine(shape, alone, len(cards), smallest.get("learner", everywhere))
    for pool, total_bytes in of_pools.items():
        plan = plan_machine(shape, in_pool(cfg, pool), len(cards), total_bytes)
        # the learner's own memory is judged on its own cards
        yield pool, plan if plan.shared else replace(plan, learner=LearnerMemory.nothing(), advice="")


def _share(cfg: Config, pool: str, plan: MachinePlan, number: int) -> Iterator[str]:
    """Give the actor the part of the GPU that the learner leaves."""
    if not plan.shared or not shares_gpu(cfg, number):
        return
    if plan.actor is None:
        yield "learner and actor share the GPU, and actor.engine=transformers takes memory as it needs it"
        return
    kind = in_pool(cfg, pool).actor
    given = kind.gpu_memory_utilization
    # a fixed size: vLLM would measure what is free while the learner beside it still grows
    room = int(100 * plan.actor.kv_cache / GIB) / 100
    settled = {"gpu_memory_utilization": plan.actor.share, "kv_cache_gib": min(kind.kv_cache_gib or room, room)}
    if pool:
        cfg.pools[pool].actor |= settled
    else:
        cfg.actor = replace(cfg.actor, **settled)
    lowered = f" (instead of {given:g})" if plan.actor.share < given else ""
    yield (
        f"learner and actor share the GPU: of {plan.total_bytes / GIB:.0f} GiB the learner takes "
        f"{plan.learner.peak / GIB:.1f}, vLLM gets actor.gpu_memory_utilization = {plan.actor.share:g} of it{lowered}, "
        f"with room for {plan.actor.kv_tokens:,} tokens"
    )


def _refuse_hopeless(plan: MachinePlan, named: str) -> None:
    """Raise ConfigError for a run that cannot work: its state alone, or an actor's weights, exceed the memory."""
    actor = plan.actor
    hopeless = plan.learner.resident + plan.learner.gathered > plan.total_bytes or (actor is not None and actor.kv_cache <= 0)
    if hopeless:
        raise ConfigError(f"{named}this run {plan_verdict(plan)}; `prolong plan memory` shows the sum")


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

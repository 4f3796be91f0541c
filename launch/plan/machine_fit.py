"""Whether a run fits on the GPUs of one machine, and the settings with which it does.

A learner that does not fit is tried again with one setting more, in the order of what each costs. On a GPU that learner and
actor share, vLLM gets what the learner leaves.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum

from ...common.config.choices import EngineKind, Offload, Recompute
from ...common.config.sections import Config
from ..placement import needed_gpus, shares_gpu
from .actor_memory import CONTEXT_BYTES_OF_ACTOR, ActorMemory, predict_actor
from .learner_memory import LearnerMemory, predict_learner, staging_of
from .model_shape import ModelShape

GIB = 1 << 30
# a run whose numbers are closer than this to the memory of a card may fail on a bad day
MARGIN = 0.03


@dataclass(frozen=True, kw_only=True, slots=True)
class MachinePlan:
    """The memory of a run on one machine with equal GPUs."""

    gpus: int
    needed: int  # GPUs, without sharing
    shared: bool  # learner and actor are on the same GPU
    total_bytes: int  # of each GPU
    parameters: int
    learner: LearnerMemory
    actor: ActorMemory | None  # None: no actors here, or not vLLM
    learner_host: int  # bytes of all ranks in the memory of the machine
    actors: int
    advice: str = ""  # settings with which memory suffices; empty when it does, or nothing helps

    @property
    def learner_fits(self) -> bool:
        return self.learner.peak <= (1 - MARGIN) * self.total_bytes

    @property
    def actor_fits(self) -> bool:
        return self.actor is None or (self.actor.sequences > 0 and self.actor.taken <= self.total_bytes)

    @property
    def in_memory(self) -> bool:
        """Whether the memory of the GPUs suffices, if there are enough of them."""
        return self.learner_fits and self.actor_fits

    @property
    def fits(self) -> bool:
        placed = self.shared or self.gpus >= self.needed
        return placed and self.in_memory

    @property
    def host(self) -> int:
        return self.learner_host + (self.actor.host * self.actors if self.actor else 0)


def plan_machine(shape: ModelShape, cfg: Config, gpus: int, total_bytes: int, nodes: int = 1) -> MachinePlan:
    """Count the memory of a run of `cfg` on so many GPUs of `total_bytes`, on the first of `nodes` machines of the learner.

    `cfg.model.dtype` is settled.
    """
    plan = _count(shape, cfg, gpus, total_bytes, nodes)
    return plan if plan.in_memory else replace(plan, advice=_advice(shape, cfg, gpus, total_bytes, nodes))


def _count(shape: ModelShape, cfg: Config, gpus: int, total_bytes: int, nodes: int) -> MachinePlan:
    shared = shares_gpu(cfg, gpus)
    learner = predict(shape, cfg, nodes)
    actor = None
    if cfg.launch.actors and cfg.actor.engine is EngineKind.vllm:
        share = actor_share(shape, cfg, learner, total_bytes) if shared else cfg.actor.gpu_memory_utilization
        actor = predict_actor(shape, cfg, total_bytes, share)
    return MachinePlan(
        gpus=gpus,
        needed=needed_gpus(cfg),
        shared=shared,
        total_bytes=total_bytes,
        parameters=shape.parameters,
        learner=learner,
        actor=actor,
        learner_host=learner.host * cfg.launch.learner_ranks + learner.published,
        actors=cfg.launch.actors,
    )


def predict(shape: ModelShape, cfg: Config, nodes: int = 1) -> LearnerMemory:
    """The memory of rank 0 of the learner of `cfg`, whose ranks are on so many machines."""
    ranks = cfg.launch.learner_ranks
    return predict_learner(shape, cfg, shards=min(cfg.learner.shard_ranks or ranks, ranks * nodes))


def actor_share(shape: ModelShape, cfg: Config, learner: LearnerMemory, total_bytes: int) -> float:
    """The share of a GPU that vLLM gets beside the learner, in hundredths; at most `actor.gpu_memory_utilization`."""
    beside = learner.peak + CONTEXT_BYTES_OF_ACTOR + staging_of(shape, cfg).actor_device
    left = (total_bytes * (1 - MARGIN) - beside) / total_bytes
    return min(cfg.actor.gpu_memory_utilization, max(int(left * 100) / 100, 0.0))


def _advice(shape: ModelShape, cfg: Config, gpus: int, total_bytes: int, nodes: int) -> str:
    """Settings with which memory suffices: the cheapest ones, none of them in vain; empty when nothing helps."""

    def suffices(changes: dict[str, object]) -> bool:
        return _count(shape, _changed(cfg, changes), gpus, total_bytes, nodes).in_memory

    changes: dict[str, object] = {}
    for name, value in _cheaper(shape, cfg):
        changes[name] = value
        if suffices(changes):
            break
    else:
        return _more_ranks(shape, cfg, changes, total_bytes)
    for name in list(changes):
        fewer = {other: value for other, value in changes.items() if other != name}
        if suffices(fewer):
            changes = fewer
    return _settings(changes)


def _more_ranks(shape: ModelShape, cfg: Config, changes: dict[str, object], total_bytes: int) -> str:
    """The fewest ranks, on the fewest machines, with which a learner with these changes fits."""
    for nodes, ranks in ((1, 2), (1, 4), (1, 8), (2, 8), (4, 8), (8, 8)):
        more = changes | ({"shard_ranks": nodes * ranks} if nodes > 1 else {})
        wider = replace(_changed(cfg, more), launch=replace(cfg.launch, learner_ranks=ranks))
        larger = nodes > 1 or ranks > cfg.launch.learner_ranks
        if larger and predict(shape, wider, nodes).peak <= (1 - MARGIN) * total_bytes:
            where = f" on {nodes} machines (prolong learner --nodes {nodes})" if nodes > 1 else ""
            return f"{_settings(more)} launch.learner_ranks={ranks}{where}".strip()
    return ""


def _changed(cfg: Config, changes: dict[str, object]) -> Config:
    return replace(cfg, learner=replace(cfg.learner, **changes))  # pyright: ignore[reportArgumentType]


def _settings(changes: dict[str, object]) -> str:
    """The changes as a user gives them."""
    words = {name: value.name if isinstance(value, Enum) else value for name, value in changes.items()}
    return " ".join(f"learner.{name}={value}" for name, value in words.items())


def _cheaper(shape: ModelShape, cfg: Config) -> Iterator[tuple[str, object]]:
    """Settings that lower the learner's memory, in the order of what they cost."""
    learner = cfg.learner
    if learner.recompute is not Recompute.true:
        yield "recompute", Recompute.true
    if learner.logprob_chunk > 256:
        yield "logprob_chunk", 256
    if learner.token_budget > cfg.model.max_context:
        yield "token_budget", cfg.model.max_context
    for sharing in (2, 4, 8):
        # a document that is longer than the budget is what fills a micro-batch
        longer = -(-cfg.model.max_context // (sharing // 2)) > learner.token_budget
        if longer and sharing > learner.context_parallel and _can_share(shape, cfg.launch.learner_ranks, sharing):
            yield "context_parallel", sharing
    if learner.offload is Offload.none and cfg.objective.kl_beta > 0:
        yield "offload", Offload.reference
    if learner.offload is not Offload.all:
        yield "offload", Offload.all


def _can_share(shape: ModelShape, ranks: int, sharing: int) -> bool:
    """Whether so many ranks can share a micro-batch: they need equally many of the heads (learner/model/families.py)."""
    heads, key_heads = shape.query * shape.kv_heads // shape.kv, shape.kv_heads
    return ranks % sharing == heads % sharing == 0 and (key_heads % sharing == 0 or sharing % key_heads == 0)

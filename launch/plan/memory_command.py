"""`prolong plan memory`: what a run takes of every GPU and of the machine, printed as a table or as JSON."""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import replace
from math import inf

from rich.console import Console
from rich.table import Table

from ...common.config.actors import in_pool
from ...common.config.choices import Device
from ...common.config.sections import Config
from ...common.errors import ConfigError
from ..gpus import has_gpu, probe_gpus, visible_gpus
from ..model_check import read_config_of, settle_dtype
from ..placement import needed_gpus, shares_gpu
from ..recipes import compose
from .machine_fit import GIB, MachinePlan, plan_machine
from .model_shape import ModelShape

DEFAULT_GIB = 80.0  # of a GPU, where this machine has none and --gib is not given


def main(argv: list[str]) -> int:
    """Print the plan; 0 when the run fits, 1 when it does not."""
    parser = argparse.ArgumentParser(
        prog="prolong plan memory",
        description="say what a run takes of every GPU and of the machine, from config.json and the settings alone",
        epilog="exit code: 0 it fits, 1 it does not, 2 it cannot be counted",
    )
    parser.add_argument("--recipe", default="", help="a name in launch/conf, or a YAML file such as runs/NAME/config.yaml")
    parser.add_argument("--gpus", type=int, help="GPUs of the machine (default: those here, or as many as the run needs)")
    parser.add_argument("--nodes", type=int, default=1, help="machines of the learner, as for `prolong learner` (default: 1)")
    parser.add_argument("--gib", type=float, help=f"memory of each GPU (default: of those here, or {DEFAULT_GIB:g})")
    parser.add_argument("--json", action="store_true", help="one JSON object on one line")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="settings of docs/config.md, over the recipe")
    args = parser.parse_intermixed_args(argv)
    cfg = compose(args.recipe, args.overrides)
    settle_dtype(cfg, on_gpu=lambda _: True)
    shape = ModelShape.of(read_config_of(cfg.model.path))
    plans = {pool: _plan(shape, cfg, pool, args) for pool in cfg.pools or ("",)}
    records = {pool: plan_record(plan) for pool, plan in plans.items()}
    fits = all(plan.fits for plan in plans.values())
    if args.json:
        print(json.dumps({"fits": fits, "pools": records} if cfg.pools else records[""]))
    else:
        for pool, plan in plans.items():
            show_plan(in_pool(cfg, pool), plan, pool)
    return 0 if fits else 1


def _plan(shape: ModelShape, cfg: Config, pool: str, args: argparse.Namespace) -> MachinePlan:
    """The memory of the learner and of an actor of this pool, on a machine that holds the actors of all."""
    gpus, total_bytes = _gpus(cfg, args.gpus, args.gib)
    plan = plan_machine(shape, in_pool(cfg, pool), gpus, total_bytes, nodes=max(args.nodes, 1))
    return replace(plan, needed=needed_gpus(cfg), shared=shares_gpu(cfg, gpus))


def _gpus(cfg: Config, gpus: int | None, gib: float | None) -> tuple[int, int]:
    """How many GPUs, and the bytes of each."""
    for name, value in (("--gpus", gpus), ("--gib", gib)):
        if value is not None and not 0 < value < inf:
            raise ConfigError(f"{name} {value:g}: expected a number above 0")
    here = has_gpu() and cfg.model.device is not Device.cpu
    if gpus is None:
        gpus = len(visible_gpus(os.environ)) if here else needed_gpus(cfg)
    found = probe_gpus().gpus if here and gib is None else []
    total_bytes = min(card.total_bytes for card in found) if found else int((gib or DEFAULT_GIB) * GIB)
    return max(gpus, 1), total_bytes


def plan_record(plan: MachinePlan) -> dict[str, object]:
    """The plan as JSON."""
    actor = plan.actor
    return {
        "fits": plan.fits,
        "parameters": plan.parameters,
        "gpus": plan.gpus,
        "gpus_needed": plan.needed,
        "shared": plan.shared,
        "gpu_bytes": plan.total_bytes,
        "learner": plan.learner.parts() | {"peak": plan.learner.peak, "instant": plan.learner.instant},
        "actor": None
        if actor is None
        else actor.parts()
        | {
            "share": actor.share,
            "taken": actor.taken,
            "kv_tokens": actor.kv_tokens,
            "sequences": actor.sequences,
        },
        "host_bytes": plan.host,
        "advice": plan.advice,
        "verdict": plan_verdict(plan),
    }


def show_plan(cfg: Config, plan: MachinePlan, pool: str = "") -> None:
    """Print the plan as a table and sentences; with pools, that of one of them."""
    console = Console(highlight=False)
    if pool:
        console.print(f"[bold]pool {pool}[/]")
    console.print(
        f"{cfg.model.path}: {plan.parameters / 1e9:.2f} billion parameters, {cfg.model.dtype}, micro-batches of "
        f"{max(cfg.learner.token_budget, cfg.model.max_context):,} tokens, recompute {cfg.learner.recompute.name}, "
        f"offload {cfg.learner.offload.name}",
        soft_wrap=True,
    )
    table = Table("GiB on each GPU", "learner", "actor")
    names = {"kv_cache": "keys and values", "buckets": "buckets of an update", "context": "CUDA, NCCL, graphs, fragments"}
    learner, actor = plan.learner.parts(), plan.actor.parts() if plan.actor else {}
    for name in dict.fromkeys([*learner, *actor]):
        table.add_row(names.get(name, name), _gib(learner.get(name)), _gib(actor.get(name)))
    table.add_row("sum", _gib(plan.learner.peak), _gib(plan.actor.taken if plan.actor else None))
    console.print(table)
    console.print(f"highest instant of the learner: {plan.learner.instant}", soft_wrap=True)
    if plan.actor is not None:
        console.print(
            f"the actor's keys and values hold {plan.actor.kv_tokens:,} tokens: {plan.actor.sequences} rollouts of full length "
            f"at once (actor.max_num_seqs = {cfg.actor.max_num_seqs}), at actor.gpu_memory_utilization = {plan.actor.share:g}",
            soft_wrap=True,
        )
    console.print(f"memory of the machine: {plan.host / GIB:.1f} GiB beside code and data", soft_wrap=True)
    console.print(plan_verdict(plan), soft_wrap=True)


def _gib(num_bytes: int | None) -> str:
    return "" if num_bytes is None else f"{num_bytes / GIB:.1f}"


def plan_verdict(plan: MachinePlan) -> str:
    """Whether the run fits, and what to change if it does not."""
    each = f"{plan.total_bytes / GIB:.0f} GiB"
    if not plan.in_memory:
        cure = f"it fits with {plan.advice}" if plan.advice else "no setting of the learner helps"
        return f"does not fit: {_excess(plan, each)}; {cure}"
    if not plan.fits:
        few = f"the run needs {plan.needed} GPUs and there are {plan.gpus}"
        return f"does not fit: {few}; lower launch.learner_ranks or launch.actors"
    beside = f"; learner and actor share the GPU, vLLM gets {plan.actor.share:.2f} of it" if plan.shared and plan.actor else ""
    return f"fits on {min(plan.gpus, plan.needed)} of {plan.gpus} GPUs of {each}{beside}"


def _excess(plan: MachinePlan, each: str) -> str:
    """What is too large."""
    if not plan.learner_fits or plan.actor is None:
        return f"a rank of the learner takes {plan.learner.peak / GIB:.1f} GiB of {each}"
    if plan.shared:
        beside = f"beside the learner's {plan.learner.peak / GIB:.1f} GiB"
        return f"vLLM gets {plan.actor.share:.2f} of {each} {beside}, which hold no rollout of model.max_context"
    if plan.actor.taken > plan.total_bytes:
        beside = plan.actor.buckets + plan.actor.context
        most = int(100 - 100 * beside / plan.total_bytes) / 100
        return (
            f"actor.gpu_memory_utilization = {plan.actor.share:g} of {each} leaves less than the {beside / GIB:.1f} GiB "
            f"that CUDA and the buckets of an update take beside it; at most {most:g} fits"
        )
    return (
        f"actor.gpu_memory_utilization = {plan.actor.share:g} of {each} hold no rollout of model.max_context beside the "
        "weights (a larger actor.tensor_parallel splits them)"
    )

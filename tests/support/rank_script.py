"""One rank of tests/integration/test_learner_ranks.py: train on recorded batches, under FSDP2 when there are several ranks."""

from __future__ import annotations

import errno
import os
import signal
import threading
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from prolong.common.config.choices import Correction, Recompute
from prolong.common.config.sections import Config
from prolong.common.errors import CheckpointError, NonFiniteUpdate
from prolong.learner.batches.packing import pack
from prolong.learner.checkpoints import saver as saving
from prolong.learner.checkpoints import snapshot
from prolong.learner.checkpoints.checkpoint import LearnerState, load_checkpoint, read_state
from prolong.learner.checkpoints.saver import Checkpointer
from prolong.learner.checkpoints.shards import write_shards
from prolong.learner.model.reference import Reference
from prolong.learner.ranks import Ranks, join_ranks, leave_ranks, rank_mesh, work_timeout_s
from prolong.learner.step import StepConfig, Trainer
from safetensors.torch import save_file
from torch import distributed as dist
from torch.distributed.fsdp._fully_shard import _fsdp_collectives, _fsdp_param_group
from torch.distributed.tensor import DTensor

from tests.support.batches import (
    VARIANTS,
    make_policy,
    mixed_batch,
    near_policy,
    poison,
    random_batch,
    samples_under,
    small_config,
    unsettle,
    variant_config,
)


def run(model: Path, folder: Path, mode: str) -> None:
    """`train`: steps 0..4 with a checkpoint at 3 and 5; `resume FROM`: from the checkpoint FROM, into folder/resumed-RANKS.

    `resave FROM`: load it, and save it again into folder/resaved-RANKS. All three may end with `@DTYPE`, and begin with
    `apart `: then every rank is on a node of its own, whose disk is folder/node-RANK; or with `paired `: then every two ranks
    hold the model. `die`: rank 1 is killed in the middle of
    writing the second of two checkpoints; `fill`: the disk is full for it; `hang`: it does not answer,
    and rank 0 waits for its own thread. Errors go into folder/error-RANK.txt.

    `variants`: one step of each of VARIANTS. `bfloat16`: one step in bfloat16 per kind of recompute. `blame`: one that is
    skipped, and its error into folder/error-RANK.txt. `groups`: one step with every size of the groups that hold the model.
    `experts`: one step of a mixture of experts, and its weights.
    """
    torch.set_num_threads(1)
    ranks = join_ranks(starve_s=30.0, cuda=False)
    if mode == "variants":
        for name in VARIANTS:
            step_of_variant(model, folder, name, ranks)
    elif mode == "bfloat16":
        for recompute in Recompute:
            step_in_bfloat16(model, folder, recompute, ranks)
    elif mode == "blame":
        blame(model, folder, ranks)
    elif mode == "groups":
        check_deadlines(ranks)
        for sharing in (4, 2, 1):
            step_in_groups(model, folder, sharing, ranks)
    elif mode == "experts":
        experts(model, folder, ranks)
    elif mode in ("die", "fill", "hang"):
        fail_in_a_save(model, folder, mode, ranks)
    elif mode.startswith("apart "):
        ranks.local_rank = 0
        train(model, folder / f"node-{ranks.rank}", mode.removeprefix("apart "), ranks)
    elif mode.startswith("paired "):
        ranks.mesh = rank_mesh(ranks.size, 2, "cpu")
        train(model, folder, mode.removeprefix("paired "), ranks)
    else:
        train(model, folder, mode, ranks)
    leave_ranks()


def make_sharded(cfg: Config, ranks: Ranks) -> Trainer:
    """A trainer over all ranks with a reference."""
    policy, frozen = (make_policy(cfg, trainable=t, shard=True, mesh=ranks.mesh) for t in (True, False))
    return Trainer(StepConfig.of(cfg), policy, Reference(frozen), ranks, torch.device("cpu"))


def save_gradients(trainer: Trainer, metrics: dict[str, float], path: Path) -> None:
    """Save all gradients whole, and every metric as a tensor."""
    gradients = {}
    for name, parameter in trainer.policy.causal.named_parameters():
        assert isinstance(parameter.grad, DTensor)
        gradients[name] = parameter.grad.full_tensor()
    numbers = {name: torch.tensor(value, dtype=torch.float64) for name, value in metrics.items()}
    if trainer.ranks.first:
        save_file(gradients | numbers, path)


def step_of_variant(model: Path, folder: Path, name: str, ranks: Ranks) -> None:
    """One step on a mixed batch near the policy."""
    cfg = variant_config(model, name)
    trainer = make_sharded(cfg, ranks)
    unsettle(trainer)
    batch = near_policy(mixed_batch(), make_policy(cfg))
    save_gradients(trainer, trainer.train(batch), folder / f"{name}.safetensors")


def step_in_bfloat16(model: Path, folder: Path, recompute: Recompute, ranks: Ranks) -> None:
    """Two updates on float32 masters, so that the second begins from gathered parameters that the first has changed."""
    cfg = small_config(model)
    cfg.model.dtype, cfg.learner.minibatches, cfg.learner.recompute = "bfloat16", 2, recompute
    # a clip would turn roundings into tokens that are left out
    cfg.objective.correction = Correction.decoupled
    trainer = make_sharded(cfg, ranks)
    save_gradients(trainer, trainer.train(random_batch(0)), folder / f"{recompute.name}.safetensors")
    masters = {parameter.dtype for parameter in trainer.policy.parameters()}
    moments = {value.dtype for state in trainer.optimizer.state.values() for value in state.values()}
    assert masters == moments == {torch.float32}, (masters, moments)
    assert trainer.reference is not None
    trainer.reference.reset(trainer.policy)
    (samples,) = samples_under(small_config(model), random_batch(1))
    (micro, *_) = pack(samples, token_budget=40, layout=trainer.policy.layout, rank=ranks.rank, world_size=ranks.size)
    with torch.no_grad():
        both = trainer.policy.logprobs(micro)[0], trainer.reference.logprobs(micro)
    assert {parameter.dtype for parameter in trainer.reference.policy.parameters()} == {torch.bfloat16}
    assert torch.equal(*both), "KL(policy, reference) is 0 right after a reset"


def blame(model: Path, folder: Path, ranks: Ranks) -> None:
    """A step on a batch of which one group's prompt gives this policy no finite number; it lies on one rank only."""
    cfg = small_config(model)
    cfg.learner.max_skipped, cfg.learner.token_budget = 1, 1
    trainer = make_sharded(cfg, ranks)
    try:
        trainer.train(poison(trainer.policy, random_batch(1), 2))
    except NonFiniteUpdate as error:
        (folder / f"error-{ranks.rank}.txt").write_text(str(error))


def check_deadlines(ranks: Ranks) -> None:
    """Once a model is loaded, every group waits as long as its size asks for, and for a batch so much longer."""
    ranks.allow_for(10**9)
    groups = [dist.distributed_c10d._get_default_group(), ranks.control, ranks.handover]
    found = [group._get_backend(torch.device("cpu")).options._timeout.total_seconds() for group in groups if group]
    allowed = work_timeout_s(10**9, ranks.size)
    assert found == [allowed, allowed, allowed + 30.0], (found, allowed)


def step_in_groups(model: Path, folder: Path, sharing: int, ranks: Ranks) -> None:
    """One step where groups of `sharing` ranks hold the model each, how often they added gradients up and gathered shards."""
    ranks.mesh = rank_mesh(ranks.size, sharing, "cpu")
    cfg = small_config(model)
    cfg.learner.token_budget = 16
    trainer = make_sharded(cfg, ranks)
    unsettle(trainer)
    between = ranks.mesh.get_group("copies") if sharing < ranks.size else None
    with (
        patch.object(dist, "all_reduce", wraps=dist.all_reduce) as added_up,
        patch.object(_fsdp_param_group, "foreach_all_gather", wraps=_fsdp_collectives.foreach_all_gather) as gathered,
    ):
        metrics = trainer.train(random_batch(0))
    groups = [call.kwargs.get("group") for call in added_up.call_args_list]
    counted = {"added_up": groups.count(between) if between else 0.0, "gathered": float(gathered.call_count)}
    save_gradients(trainer, metrics | counted, folder / f"groups-{sharing}.safetensors")


def experts(model: Path, folder: Path, ranks: Ranks) -> None:
    """One step; the weights before it, by the names that actors get, and after it, by those of the files."""
    cfg = small_config(model)
    trainer = make_sharded(cfg, ranks)
    published = dict(trainer.policy.full_parameters())
    unsettle(trainer)
    save_gradients(trainer, trainer.train(random_batch(0)), folder / "experts.safetensors")
    if ranks.first:
        save_file(published, folder / "published.safetensors")
    saver = Checkpointer(folder, ranks, dtype="float32", source=None, keep=1)
    saver.save(LearnerState(version=1, generation=1), trainer)
    saver.close()
    ranks.barrier()


def train(model: Path, folder: Path, mode: str, ranks: Ranks) -> None:
    """`train` and `resume`."""
    cfg = small_config(model)
    cfg.objective.kl_beta = 0.1
    mode, _, dtype = mode.partition("@")
    cfg.model.dtype = dtype or cfg.model.dtype
    trainer = make_sharded(cfg, ranks)
    how, _, start = mode.partition(" ")
    first, resumed = 0, None
    if start:
        resumed = folder / start
        state = read_state(resumed)
        load_checkpoint(resumed, state, trainer, ranks)
        first, folder = state.version, folder / f"{how}d-{ranks.size}"
    saver = Checkpointer(folder, ranks, dtype=cfg.model.dtype, source=None, keep=5, resumed=resumed)
    if how == "resave":
        saver.save(LearnerState(version=first), trainer)
    for version in range(first, 5):
        metrics = trainer.train(random_batch(version))
        if version == 0:
            save_gradients(trainer, metrics, folder / "gradients.safetensors")
        if version in (2, 4):
            saver.save(LearnerState(version=version + 1, generation=1), trainer)
    saver.close()


def fail_in_a_save(model: Path, folder: Path, mode: str, ranks: Ranks) -> None:
    """`die`, `fill` and `hang`; a third checkpoint after `fill`."""
    trainer = make_sharded(small_config(model), ranks)
    saver = Checkpointer(folder, ranks, dtype="float32", source=None, keep=1)
    saver.save(LearnerState(version=1), trainer)
    saver.wait()

    def fail(path: Path, *args: Any) -> None:
        write_shards(path, *args)
        if ranks.rank == 1 and mode == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if ranks.rank == 1 and mode == "hang":
            threading.Event().wait(60.0)
        if ranks.rank == 1:
            raise OSError(errno.ENOSPC, "No space left on device")

    with patch.object(snapshot, "write_shards", fail), patch.object(saving, "WRITE_S", 1.0 if mode == "hang" else 60.0):
        saver.save(LearnerState(version=2), trainer)
        try:
            # the thread of rank 0 gives rank 1 up by itself
            if mode == "hang" and ranks.first and saver._thread is not None:
                saver._thread.join()
            saver.wait()
        except CheckpointError as error:
            (folder / f"error-{ranks.rank}.txt").write_text(str(error))
    if mode == "fill":
        ranks.barrier()
        saver.save(LearnerState(version=3), trainer)
        saver.close()

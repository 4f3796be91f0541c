"""What fits on which GPUs, with sums that a reader can redo, and advice that is taken from settings that exist."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from prolong.bench.memory import MODELS
from prolong.common.config.choices import EngineKind, Offload, Recompute
from prolong.common.config.sections import (
    ActorConfig,
    Config,
    LaunchConfig,
    LearnerConfig,
    ModelConfig,
    ObjectiveConfig,
)
from prolong.common.errors import ConfigError
from prolong.launch.plan import memory_command
from prolong.launch.plan.actor_memory import kv_bytes, predict_actor
from prolong.launch.plan.learner_memory import predict_learner
from prolong.launch.plan.machine_fit import GIB, plan_machine
from prolong.launch.plan.model_shape import ModelShape
from prolong.launch.recipes import compose

SMALL, LARGE = ModelShape.of(MODELS["0.6B"]), ModelShape.of(MODELS["32B"])
N = LARGE.parameters


def config(*, ranks: int = 1, actors: int = 1, dtype: str = "bfloat16", beta: float = 1e-4, **learner: object) -> Config:
    return Config(
        model=ModelConfig(path="x", dtype=dtype, max_context=4096),
        learner=replace(LearnerConfig(token_budget=8192), **learner),
        objective=ObjectiveConfig(kl_beta=beta),
        launch=LaunchConfig(learner_ranks=ranks, actors=actors),
    )


def test_the_state_of_a_rank_is_its_share_of_18_bytes_a_parameter() -> None:
    memory = predict_learner(LARGE, config(ranks=8), shards=8)
    assert (memory.masters, memory.moments, memory.gradients) == (4 * N // 8, 8 * N // 8, 4 * N // 8)
    assert memory.reference == 2 * N // 8
    assert predict_learner(LARGE, config(ranks=8, beta=0.0), shards=8).reference == 0
    averaged = config(ranks=8)
    averaged.reference.ema = 0.99
    assert predict_learner(LARGE, averaged, shards=8).reference == 4 * N // 8
    # one rank in float32 is a plain module, and so is its reference
    assert predict_learner(LARGE, config(dtype="float32"), shards=1).resident == 20 * N


def test_offloaded_parts_move_to_the_host() -> None:
    plain, reference, everything = (
        predict_learner(LARGE, config(ranks=8, offload=offload), shards=8)
        for offload in (Offload.none, Offload.reference, Offload.all)
    )
    assert plain.resident - reference.resident == reference.host - plain.host == 2 * N // 8
    assert everything.resident == 0
    assert everything.host - plain.host == 18 * N // 8


def test_recompute_keeps_fewer_activations() -> None:
    all_kept, cheap, least = (
        predict_learner(LARGE, config(ranks=8, recompute=recompute), shards=8).tensors
        for recompute in (Recompute.false, Recompute.selective, Recompute.true)
    )
    assert all_kept > 1.5 * cheap > 2.5 * least


def test_adapters_alone_have_moments_and_gradients() -> None:
    cfg = config(ranks=8)
    adapted = replace(cfg, model=replace(cfg.model, lora={"rank": 16}))
    memory = predict_learner(LARGE, adapted, shards=8)
    hidden, inner, query, kv = 5120, 25600, 64 * 128, 8 * 128
    adapters = 64 * 16 * (2 * (hidden + query) + 2 * (hidden + kv) + 3 * (hidden + inner))
    assert memory.moments == 8 * adapters // 8
    assert memory.masters == (4 * adapters + 2 * N) // 8
    assert memory.tensors < predict_learner(LARGE, cfg, shards=8).tensors


def test_an_actor_keeps_the_base_of_adapters_in_the_memory_of_its_host() -> None:
    cfg = replace(config(ranks=8), actor=ActorConfig(tensor_parallel=2))
    adapted = replace(cfg, model=replace(cfg.model, lora={"rank": 16}))
    plain, kept = (predict_actor(LARGE, each, 80 * GIB, 0.85) for each in (cfg, adapted))
    assert kept.host > 2 * 2 * N
    # of the update itself hardly anything is left
    assert kept.host - 2 * 2 * N < plain.host / 50
    assert kept.weights == plain.weights


def test_ranks_that_share_a_document_hold_a_part_of_it() -> None:
    cfg = replace(config(ranks=8), model=ModelConfig(path="x", dtype="bfloat16", max_context=65536))
    halves = replace(cfg, learner=replace(cfg.learner, context_parallel=8))
    assert predict_learner(LARGE, cfg, shards=8).activations == pytest.approx(
        8 * predict_learner(LARGE, halves, shards=8).activations, rel=0.01
    )


@pytest.mark.parametrize(("ranks", "shared"), [(8, True), (7, False)])
def test_a_document_that_no_gpu_holds_is_advised_to_be_shared(ranks: int, shared: bool) -> None:
    cfg = replace(
        config(ranks=ranks, actors=0, recompute=Recompute.true, logprob_chunk=256),
        model=ModelConfig(path="x", dtype="bfloat16", max_context=131072),
    )
    plan = plan_machine(SMALL, cfg, ranks, 16 * GIB)
    assert not plan.learner_fits
    assert (plan.advice == "learner.context_parallel=2") == shared, plan.advice


def test_the_cache_of_an_actor_is_what_weights_and_activations_leave() -> None:
    cfg = config()
    actor = predict_actor(SMALL, cfg, 80 * GIB, 0.85)
    assert actor.weights == 2 * SMALL.parameters
    # two for keys and values, 28 layers, 8 heads of 128, two bytes
    assert kv_bytes(SMALL, cfg) == 2 * 28 * 8 * 128 * 2
    assert actor.kv_cache == int(0.85 * 80 * GIB) - actor.weights - actor.activations
    assert actor.kv_tokens == actor.kv_cache // kv_bytes(SMALL, cfg)
    assert actor.sequences == actor.kv_tokens // 4096
    eighth = replace(cfg, actor=ActorConfig(engine_args={"kv_cache_dtype": "fp8", "quantization": "fp8_per_tensor"}))
    assert kv_bytes(SMALL, eighth) == kv_bytes(SMALL, cfg) // 2
    assert predict_actor(SMALL, eighth, 80 * GIB, 0.85).weights == 2 * SMALL.root + SMALL.layers * SMALL.layer
    split = replace(cfg, actor=ActorConfig(tensor_parallel=4))
    assert predict_actor(LARGE, split, 80 * GIB, 0.85).weights == N // 2


def test_the_staging_of_an_update_has_room_beside_the_share() -> None:
    """Not a second model: buckets, the largest of which is the embedding."""
    large = replace(config(ranks=4, actors=2), actor=ActorConfig(tensor_parallel=2))
    actor = predict_actor(LARGE, large, 80 * GIB, 0.85)
    assert 2 * LARGE.table < actor.buckets < 0.1 * 2 * N
    assert actor.taken <= 80 * GIB
    greedy = replace(large, actor=ActorConfig(tensor_parallel=2, gpu_memory_utilization=0.97))
    plan = replace(plan_machine(LARGE, greedy, 8, 80 * GIB), learner=predict_learner(SMALL, large, shards=4))
    assert not plan.actor_fits
    assert "GiB that CUDA and the buckets of an update take beside it; at most 0.9" in memory_command.plan_verdict(plan)


def test_on_one_gpu_the_actor_gets_what_the_learner_leaves() -> None:
    plan = plan_machine(SMALL, config(recompute=Recompute.true), 1, 80 * GIB)
    assert plan.shared
    assert plan.fits
    assert plan.actor is not None
    assert plan.learner.peak + plan.actor.taken <= 80 * GIB
    assert 0.5 < plan.actor.share <= 0.85
    apart = plan_machine(SMALL, config(recompute=Recompute.true), 2, 80 * GIB)
    assert apart.actor is not None
    assert (apart.shared, apart.actor.share) == (False, 0.85)


def test_too_little_memory_names_the_cheapest_settings_that_help() -> None:
    plan = plan_machine(SMALL, config(), 1, 24 * GIB)
    assert not plan.fits
    assert plan.advice == "learner.recompute=true"
    assert plan_machine(SMALL, config(recompute=Recompute.true), 1, 24 * GIB).fits


def test_advice_composes_and_is_enough() -> None:
    cfg = config(ranks=8, actors=0)
    plan = plan_machine(LARGE, cfg, 8, 80 * GIB)
    assert not plan.learner_fits
    assert plan.advice
    settings = ["model.path=x", "model.dtype=bfloat16", "model.max_context=4096", "launch.actors=0", "launch.learner_ranks=8"]
    given = compose("", [*settings, *plan.advice.split()])
    assert plan_machine(LARGE, given, 8, 80 * GIB).learner_fits


def test_several_machines_share_the_model_as_far_as_shard_ranks_says() -> None:
    apart, together = config(ranks=8), config(ranks=8, shard_ranks=16)
    assert plan_machine(LARGE, apart, 8, 80 * GIB, nodes=2).learner.moments == 8 * N // 8
    assert plan_machine(LARGE, together, 8, 80 * GIB, nodes=2).learner.moments == 8 * N // 16
    # sixteen ranks are not there
    assert plan_machine(LARGE, together, 8, 80 * GIB).learner.moments == 8 * N // 8
    advice = plan_machine(LARGE, config(ranks=8, actors=0), 8, 24 * GIB).advice
    assert advice.endswith("machines (prolong learner --nodes 2)") or "offload=all" in advice


def test_a_model_that_nothing_makes_fit_is_told_so() -> None:
    plan = plan_machine(LARGE, config(), 1, 2 * GIB)
    assert not plan.fits
    assert plan.advice == ""
    assert "no setting of the learner helps" in memory_command.plan_verdict(plan)


def test_too_few_gpus_do_not_fit_however_large() -> None:
    plan = plan_machine(SMALL, config(ranks=4, actors=4), 4, 141 * GIB)
    assert plan.in_memory
    assert not plan.fits
    assert "the run needs 8 GPUs and there are 4" in memory_command.plan_verdict(plan)


def test_an_engine_that_has_no_share_is_not_counted() -> None:
    cfg = replace(config(), actor=ActorConfig(engine=EngineKind.transformers))
    assert plan_machine(SMALL, cfg, 2, 80 * GIB).actor is None


def test_the_command_reads_config_json_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text(json.dumps(MODELS["7B"]))
    settings = [f"model={tmp_path}", "learner.recompute=true", "launch.learner_ranks=4", "launch.actors=4"]
    assert memory_command.main([*settings, "--gpus", "8", "--gib", "80", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["fits"] is True
    assert record["gpus_needed"] == 8
    assert record["learner"]["masters"] == record["parameters"]
    assert memory_command.main([*settings, "--gpus", "4", "--gib", "80"]) == 1
    said = capsys.readouterr().out
    assert "7.62 billion parameters, bfloat16" in said
    assert "the run needs 8 GPUs and there are 4" in said
    for number in ("0", "nan", "inf"):
        with pytest.raises(ConfigError, match=rf"--gib {number}: expected a number above 0"):
            memory_command.main([*settings, "--gib", number])


def test_each_pool_has_a_plan_and_all_must_fit_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text(json.dumps(MODELS["0.6B"]))
    pools = "pools={big: {count: 2, actor: {tensor_parallel: 2}}, small: {}}"
    settings = [f"model.path={tmp_path}", "data.train=[{file: x}]", pools]
    assert memory_command.main([*settings, "--gpus", "6", "--gib", "80", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["fits"]
    assert {pool: of["gpus_needed"] for pool, of in plan["pools"].items()} == {"big": 6, "small": 6}
    assert plan["pools"]["big"]["actor"]["weights"] < plan["pools"]["small"]["actor"]["weights"]
    assert memory_command.main([*settings, "--gpus", "5", "--gib", "80"]) == 1
    shown = capsys.readouterr().out
    assert "pool big" in shown
    assert "needs 6 GPUs and there are 5" in " ".join(shown.split())

"""Pools: the configuration of each, what it may change, and the actors that are started here."""

from __future__ import annotations

import pytest
from prolong.common.config.actors import actors_here, in_pool, kinds_of_actors
from prolong.common.config.choices import Device, EngineKind
from prolong.common.config.pools import PoolConfig
from prolong.common.config.sections import Config
from prolong.common.config.trees import build_section, default_tree
from prolong.common.errors import ConfigError

POOLS = {
    "big": {"count": 2, "actor": {"engine_args": {"quantization": "fp8_per_tensor"}, "tensor_parallel": 2}},
    "far-1": {"count": 0, "weights": {"transport": "pull"}, "verifiers": {"workers": 4}},
    "cpu": {"model": {"device": "cpu", "dtype": "float32"}, "actor": {"engine": "transformers"}},
}


def config(pools: object) -> Config:
    tree = default_tree()
    tree["model"]["path"] = "some-model"
    tree["data"]["train"] = [{"file": "a.jsonl"}]
    return build_section(Config, tree | {"pools": pools})


def test_a_pools_sections_are_laid_over_those_of_the_run() -> None:
    cfg = config(POOLS)
    big, far, cpu = (in_pool(cfg, pool) for pool in POOLS)
    assert (big.actor.engine_args, big.actor.tensor_parallel, big.launch.actors) == ({"quantization": "fp8_per_tensor"}, 2, 2)
    assert (big.actor.capacity, big.model, big.weights) == (cfg.actor.capacity, cfg.model, cfg.weights)
    assert (far.weights.transport, far.verifiers.workers, far.actor) == ("pull", 4, cfg.actor)
    assert (cpu.model.device, cpu.model.dtype, cpu.actor.engine) == (Device.cpu, "float32", EngineKind.transformers)
    assert [kind.pools for kind in (big, far, cpu)] == [{}] * 3


def test_pools_take_the_place_of_the_actors_of_the_run() -> None:
    assert [(actor.name, actor.pool) for actor in actors_here(config(POOLS))] == [
        ("big-0", "big"),
        ("big-1", "big"),
        ("cpu-0", "cpu"),
    ]
    alike = config({})
    alike.launch.actors = 2
    assert [(actor.name, actor.pool) for actor in actors_here(alike)] == [("actor-0", ""), ("actor-1", "")]
    assert kinds_of_actors(alike) == {"": alike}
    assert in_pool(alike, "") is alike


@pytest.mark.parametrize(
    ("pool", "said"),
    [
        ({"model": {"path": "other"}}, r"pools.a.model.path = 'other': expected one of dtype, device"),
        ({"weights": {"bucket_mb": 1}}, r"pools.a.weights.bucket_mb = 1: expected one of transport, "),
        ({"actor": {"capacty": 1}}, r"pool a \(pools.a\): actor.capacty = 1: unknown key; did you mean actor.capacity\?"),
        ({"actor": {"capacity": 0}}, r"pool a \(pools.a\): actor.capacity = 0: expected at least 1"),
        ({"actor": {"capacity": "x"}}, r"pool a \(pools.a\): actor.capacity = 'x': expected a whole number"),
        ({"sampling": {"n": 4}}, r"pools.a.sampling = .*: unknown key"),
        ({"count": -1}, r"pools.\*.count = -1: expected 0 or more"),
        ({"gpus": [1, 1]}, r"pools.\*.gpus = \[1, 1\]: expected different numbers"),
    ],
)
def test_what_a_pool_cannot_have_is_refused_by_its_key(pool: object, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        kinds_of_actors(config({"a": pool}))


def test_a_pool_that_is_none_or_whose_name_is_no_word_is_refused() -> None:
    with pytest.raises(ConfigError, match="pool 'b': expected one of big, far-1, cpu"):
        in_pool(config(POOLS), "b")
    with pytest.raises(ConfigError, match="pool 'b': expected one of none: this configuration has no pools"):
        in_pool(config({}), "b")
    cfg = config({})
    cfg.pools["a/b"] = PoolConfig()
    with pytest.raises(ConfigError, match=r"pools has 'a/b': expected a name of at most 100 letters"):
        in_pool(cfg, "a/b")

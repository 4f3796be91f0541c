"""Cores and GPUs are given out without overlap; too few GPUs are refused."""

import pytest
from prolong.common.config.pools import PoolConfig
from prolong.common.config.sections import ActorConfig, Config, Device, LaunchConfig, ModelConfig
from prolong.common.errors import ConfigError
from prolong.launch.placement import assign_cores, assign_gpus, check_gpus, check_ranks


def config(*, ranks: int = 1, actors: int = 1, pin: bool = True, device: Device = Device.auto, tensor: int = 1) -> Config:
    return Config(
        model=ModelConfig(path="x", device=device),
        actor=ActorConfig(tensor_parallel=tensor),
        launch=LaunchConfig(learner_ranks=ranks, actors=actors, pin_cores=pin),
    )


def test_two_cores_are_one_for_the_learner_and_one_for_the_actor() -> None:
    assert assign_cores(config(), [0, 1]) == {"learner": frozenset({0}), "actor-0": frozenset({1})}


def test_actors_share_the_cores_that_the_ranks_leave() -> None:
    pinned = assign_cores(config(ranks=2, actors=2), [4, 5, 6, 7, 8, 9, 10])
    assert pinned == {"learner": frozenset({4, 5}), "actor-0": frozenset({6, 7}), "actor-1": frozenset({8, 9, 10})}


def test_nothing_is_pinned_unasked_or_when_cores_are_too_few() -> None:
    assert assign_cores(config(pin=False), [0, 1]) == {}
    assert assign_cores(config(actors=2), [0, 1]) == {}


def test_gpus_go_to_ranks_first_then_to_actors() -> None:
    gpus = assign_gpus(config(ranks=2, actors=2, tensor=2), list("01234567"))
    assert gpus == {"learner": "0,1", "actor-0": "2,3", "actor-1": "4,5"}


def test_gpus_are_left_alone_on_a_cpu_run() -> None:
    assert assign_gpus(config(device=Device.cpu), ["0", "1"]) == {}


def test_one_gpu_is_shared_by_one_rank_and_one_actor() -> None:
    assert assign_gpus(config(), ["GPU-abc"]) == {"learner": "GPU-abc", "actor-0": "GPU-abc"}
    check_gpus(config(), 1)


def test_too_few_gpus_are_refused_with_the_sum() -> None:
    """Every process would see all of them, and all actors would sit on the first."""
    with pytest.raises(
        ConfigError, match=r"needs 8 GPUs \(launch.learner_ranks 4 \+ launch.actors 4 x actor.tensor_parallel 1"
    ):
        check_gpus(config(ranks=4, actors=4), 4)
    with pytest.raises(ConfigError, match=r"needs 3 GPUs .* this machine has 1: .*; with one GPU, launch.learner_ranks=1"):
        check_gpus(config(actors=2), 1)
    check_gpus(config(ranks=4, actors=2, tensor=2), 8)
    check_gpus(config(ranks=4, actors=0), 4)


def test_a_learner_by_itself_has_no_more_ranks_than_gpus() -> None:
    with pytest.raises(ConfigError, match=r"launch.learner_ranks = 4: each rank needs a GPU, and this machine has 2"):
        check_ranks(config(ranks=4), 2)
    check_ranks(config(ranks=4), 4)
    check_ranks(config(ranks=4), 0)
    check_ranks(config(ranks=4, device=Device.cpu), 2)


def pooled(device: Device = Device.auto, /, **pools: PoolConfig) -> Config:
    launch = LaunchConfig(actors=5, pin_cores=True)
    return Config(model=ModelConfig(path="x", device=device), launch=launch, pools=pools)


def test_actors_of_pools_get_gpus_pool_by_pool_and_their_names() -> None:
    cfg = pooled(big=PoolConfig(count=2, actor={"tensor_parallel": 2}), small=PoolConfig(), far=PoolConfig(count=0))
    gpus = {"learner": "0", "big-0": "1,2", "big-1": "3,4", "small-0": "5"}
    assert assign_gpus(cfg, list("01234567")) == gpus
    check_gpus(cfg, 6)
    cores = {"learner": frozenset({0}), "big-0": frozenset({1}), "big-1": frozenset({2}), "small-0": frozenset({3, 4})}
    assert assign_cores(cfg, [0, 1, 2, 3, 4]) == cores
    with pytest.raises(
        ConfigError, match=r"needs 6 GPUs .* pools.big.count 2 x tensor_parallel 2 \+ pools.small.count 1 .*has 5"
    ):
        check_gpus(cfg, 5)


def test_a_pool_takes_the_gpus_that_it_names_and_the_others_what_is_left() -> None:
    cfg = pooled(small=PoolConfig(), big=PoolConfig(count=2, gpus=[0, 2]))
    check_gpus(cfg, 4)
    assert assign_gpus(cfg, list("abcd")) == {"learner": "b", "small-0": "d", "big-0": "a", "big-1": "c"}
    for pools in (
        {"big": PoolConfig(gpus=[4])},
        {"big": PoolConfig(count=2, gpus=[1])},
        {"a": PoolConfig(gpus=[1]), "b": PoolConfig(gpus=[1])},
    ):
        with pytest.raises(ConfigError, match=r"pools\.(big|b)\.gpus = .*: expected none, or \d of the 4 here"):
            check_gpus(pooled(**pools), 4)


def test_a_pool_on_the_cpu_takes_no_gpu_beside_one_that_shares_the_learners() -> None:
    cfg = pooled(card=PoolConfig(), cpu=PoolConfig(count=3, model={"device": "cpu"}))
    check_gpus(cfg, 1)
    assert assign_gpus(cfg, ["7"]) == {"learner": "7", "card-0": "7"}


def test_a_learner_on_the_cpu_leaves_the_gpus_to_a_pool() -> None:
    cfg = pooled(Device.cpu, card=PoolConfig(model={"device": "cuda"}))
    check_gpus(cfg, 1)
    assert assign_gpus(cfg, ["0"]) == {"card-0": "0"}

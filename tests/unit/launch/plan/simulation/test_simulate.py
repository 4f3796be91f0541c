"""The simulation against closed forms, and its own promises."""

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

import pytest
from prolong.buffer.forecast.forecast import Forecast, KnownActor
from prolong.common.config.choices import DispatchRule
from prolong.common.config.sections import BufferConfig, Config, ModelConfig, SamplingConfig
from prolong.common.errors import LearnerStarved
from prolong.common.types import Sampling
from prolong.launch.plan.simulation.cluster import (
    Cluster,
    Failures,
    LearnerDevice,
    LengthClass,
    PoolDevice,
    VerifierDevice,
    WeightsDevice,
)
from prolong.launch.plan.simulation.result import Simulated
from prolong.launch.plan.simulation.simulate import simulate


def config(eta: int, batch: int = 16, n: int = 8) -> Config:
    return Config(
        model=ModelConfig(path="none", max_context=8192),
        sampling=SamplingConfig(n=n, max_tokens=4096),
        buffer=BufferConfig(batch_groups=batch, eta=eta),
    )


def sleepers(group_s: float, train_s: float, capacity: int, n: int = 8) -> Cluster:
    """One actor whose groups take `group_s`, `capacity` groups at once, and a learner that takes `train_s`."""
    return Cluster(
        pools={"one": PoolDevice(capacity=capacity * n, step_base_s=group_s / 100)},
        learner=LearnerDevice(base_s=train_s),
        lengths=[LengthClass(mean=100, spread=0.0)],
    )


@pytest.mark.parametrize(
    ("eta", "group_s", "train_s", "capacity"),
    # bound by: the bound on staleness, the actor, the learner, half the batch at once
    [(0, 0.4, 0.3, 16), (1, 0.4, 0.3, 16), (2, 0.4, 0.3, 16), (2, 0.1, 0.3, 16), (1, 0.4, 0.3, 8)],
)
def test_the_period_is_that_of_the_closed_form(eta: int, group_s: float, train_s: float, capacity: int) -> None:
    found = simulate(sleepers(group_s, train_s, capacity), config(eta), steps=30)
    batches = -(-16 // capacity)
    bound = max(group_s * 16 / capacity, train_s, (group_s * (batches if eta == 0 else 1) + train_s) / (eta + 1))
    assert found.period_s == pytest.approx(bound, rel=0.03)
    assert found.period_s >= bound * 0.9999
    assert max(found.staleness) <= eta


def test_the_same_arguments_give_the_same_result() -> None:
    cluster = Cluster(
        pools={"a": PoolDevice(count=3, capacity=32, step_base_s=0.01, step_per_rollout_s=1e-4)},
        learner=LearnerDevice(base_s=0.5, per_token_s=1e-5),
        lengths=[LengthClass(mean=200, spread=0.8)],
    )
    first, again = (simulate(cluster, config(2), steps=10, seed=3) for _ in range(2))
    assert first == again
    assert simulate(cluster, config(2), steps=10, seed=4) != first


ENGINE = PoolDevice(count=4, capacity=32, step_base_s=0.02)
PLAIN = Cluster(
    pools={"a": ENGINE},
    learner=LearnerDevice(base_s=4.0),
    lengths=[LengthClass(mean=200, spread=0.4)],
    weights=WeightsDevice(publish_s=0.5, pause_s=0.2),
)


def waits_for(found: Simulated, cause: str) -> float:
    return found.learner.get(f"wait/{cause}", 0.0)


def test_shares_of_the_learner_and_of_each_pool_add_up() -> None:
    found = simulate(PLAIN, config(2), steps=15)
    assert sum(found.learner.values()) == pytest.approx(1.0)
    use = found.pools["a"]
    assert use.busy + use.weights + use.idle + use.down == pytest.approx(1.0)
    assert found.steps_per_s == pytest.approx(1 / found.period_s)
    # nothing is wasted: what is sampled is trained
    assert found.tokens_per_s == pytest.approx(found.generated_per_s, rel=0.1)
    assert max(found.staleness) <= 2
    assert sum(found.staleness.values()) == 16 * (15 - 3), "a fifth of the steps warms up"


def test_the_verifiers_are_named_when_they_bind() -> None:
    slow = replace(PLAIN, verifiers=VerifierDevice(latency_s=0.5, workers=1))
    found, plain = simulate(slow, config(4), steps=12), simulate(PLAIN, config(4), steps=12)
    # 16 groups of 8 rollouts, half a second each, on four actors
    assert found.period_s == pytest.approx(16 * 8 * 0.5 / 4, rel=0.1)
    assert waits_for(found, "verifiers") > 0.5
    assert waits_for(plain, "verifiers") < 0.1
    many = simulate(replace(PLAIN, verifiers=VerifierDevice(latency_s=0.5)), config(4), steps=12)
    assert many.period_s == pytest.approx(plain.period_s, rel=0.15), "any number at once: they only take time"


def test_groups_without_signal_are_made_again() -> None:
    found = simulate(replace(PLAIN, lengths=[LengthClass(mean=200, spread=0.4, no_signal=0.4)]), config(2), steps=15)
    assert found.waste["filtered"] == pytest.approx(0.4, abs=0.08)
    assert found.generated_per_s > 1.4 * found.tokens_per_s


def test_actors_that_die_lose_their_tickets_and_come_back() -> None:
    # a group takes about six seconds: a mean life of ten groups
    found = simulate(replace(PLAIN, failures=Failures(mtbf_s=60, restart_s=10)), config(2), steps=25)
    use = found.pools["a"]
    assert use.down == pytest.approx(10 / 70, abs=0.06)
    assert found.waste["lost"] > 0.02
    assert found.counters["buffer/lost_leases"] > 5
    assert found.period_s > simulate(PLAIN, config(2), steps=25).period_s


@pytest.mark.parametrize("restart_s", [2.0, 30.0])
def test_a_learner_that_dies_repeats_the_steps_since_its_checkpoint(restart_s: float) -> None:
    cfg = config(2)
    cfg.checkpoint.every = 3
    cluster = replace(PLAIN, failures=Failures(learner_mtbf_s=60, learner_restart_s=restart_s))
    found = simulate(cluster, cfg, steps=20)
    versions = [step.version for step in found.history]
    assert sorted(set(versions)) == list(range(20))
    assert len(versions) > 20, "some steps were made twice"
    assert waits_for(found, "down") > 0.05
    assert sum(found.staleness.values()) == 16 * (20 - 4), "and are counted once"


def test_a_learner_that_never_reaches_its_next_checkpoint_is_given_up() -> None:
    cluster = replace(PLAIN, failures=Failures(learner_mtbf_s=5, learner_restart_s=20))
    with pytest.raises(LearnerStarved, match="they may fail too often"):
        simulate(cluster, config(2), steps=20)


def test_actors_that_pull_take_each_version_in_their_own_time() -> None:
    behind = replace(ENGINE, publish_s=20.0)
    cluster = replace(PLAIN, pools={"near": ENGINE, "far": behind}, weights=WeightsDevice(publish_s=0.5, transport="pull"))
    found = simulate(cluster, config(6), steps=20)
    assert found.counters["buffer/pulls"] > 40
    # the far ones are several versions behind, the near ones are not
    assert found.metrics["weights/lag_max"] >= 3
    assert found.metrics["weights/lag_mean"] < 0.7 * found.metrics["weights/lag_max"]


def test_pauses_for_new_weights_are_part_of_an_actors_time() -> None:
    long = replace(PLAIN, weights=WeightsDevice(publish_s=0.5, pause_s=1.0))
    found = simulate(long, config(2), steps=15)
    # a pause of a second with each version
    assert found.pools["a"].weights == pytest.approx(1.0 / found.period_s, rel=0.2)


def test_a_plan_follows_the_shipped_dispatch() -> None:
    """Half of the actors are four times slower. Tickets by forecast are worth a third of the time of even ones."""
    slow = replace(ENGINE, step_base_s=4 * ENGINE.step_base_s)
    cluster = replace(PLAIN, pools={"fast": ENGINE, "slow": slow}, learner=LearnerDevice(base_s=1.0))
    found: dict[DispatchRule, Simulated] = {}
    for rule in DispatchRule:
        cfg = config(4)
        cfg.buffer.dispatch = rule
        found[rule] = simulate(cluster, cfg, steps=20)
    assert found[DispatchRule.forecast].period_s < 0.75 * found[DispatchRule.even].period_s
    assert waits_for(found[DispatchRule.even], "stragglers") > 0.5
    assert waits_for(found[DispatchRule.forecast], "stragglers") < 0.2


def adaptive(drift: float) -> Simulated:
    """Groups that take six times as long as a step, and an eta that may move from 1 to 8."""
    cluster = Cluster(
        pools={"one": PoolDevice(count=12, capacity=64, step_base_s=0.06)},
        learner=LearnerDevice(base_s=1.0, drift=drift),
        lengths=[LengthClass(mean=100, spread=0.1)],
    )
    cfg = config(1)
    cfg.buffer.adaptive = {"min": 0, "max": 8, "window": 2}
    return simulate(cluster, cfg, steps=150)


def test_an_eta_that_adapts_grows_until_waiting_costs_little() -> None:
    found = adaptive(drift=0.0)
    etas = [step.eta for step in found.history]
    assert etas[0] == 1
    assert etas[-1] >= 6
    waited_s = [step.waited_s for step in found.history]
    assert sum(waited_s[-20:]) < 0.2 * sum(waited_s[:20])


def test_an_eta_that_adapts_stays_where_data_are_near_the_policy() -> None:
    # KL is drift times the square of the age: it reaches .01 with tokens that are 4.5, or 2.2 versions old
    means = [fmean(step.eta for step in adaptive(drift).history) for drift in (0.0, 5e-4, 2e-3)]
    assert means[0] > 6
    assert 2 < means[1] < 0.8 * means[0]
    assert means[2] < 0.7 * means[1]


def test_an_actor_takes_no_more_than_its_engine_has_use_for() -> None:
    """The shipped cap of the in-flight rollouts sees the signals of the simulated engine."""
    # room for 64 rollouts by the user's word, and an engine that runs 16
    small = PoolDevice(count=2, capacity=64, max_running=16, step_base_s=0.02)
    found = simulate(replace(PLAIN, pools={"a": small}), config(8), steps=40)
    assert found.pools["a"].running == pytest.approx(16, rel=0.02), "it is never idle"
    assert found.pools["a"].waiting < 24, "and three groups of 8 wait in it at most, of six"


def test_nothing_that_looks_at_every_actor_happens_for_every_ticket(monkeypatch: pytest.MonkeyPatch) -> None:
    plans: list[int] = []
    made = Forecast.plan

    def counted(forecast: Forecast, workers: Sequence[KnownActor], sampling: Sampling, *, batch: int, eta: int) -> None:
        plans.append(1)
        made(forecast, workers, sampling, batch=batch, eta=eta)

    monkeypatch.setattr(Forecast, "plan", counted)
    found = simulate(replace(PLAIN, pools={"a": replace(ENGINE, count=40)}), config(4, batch=80), steps=4)
    assert found.counters["buffer/evicted"] == 0
    # a ticket for each of 4 x 80 groups, and as many for those under way
    assert len(plans) < 3 * found.seconds + 20
    assert found.seconds < 60

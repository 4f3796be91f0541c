"""Numbers in Prometheus' text format, read back by Prometheus' own parser."""

from __future__ import annotations

import math

from prolong.common.monitoring.exposition import Metric, MetricKind, exposition, step_metric, unit_name
from prometheus_client.parser import text_string_to_metric_families


def read_back(page: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    families = text_string_to_metric_families(page)
    return {(sample.name, frozenset(sample.labels.items())): sample.value for family in families for sample in family.samples}


def test_prometheus_reads_every_number_and_label_as_it_was() -> None:
    awkward = 'a "b"\\c\nd'
    metrics = [
        Metric("learner_seconds", 1.5, MetricKind.counter, {"activity": "wait"}, "seconds\nby \\activity"),
        Metric("learner_seconds", 2.0, MetricKind.counter, {"activity": "compute"}),
        Metric("step_x", math.nan),
        Metric("step_y", math.inf, labels={"task": awkward}),
        Metric("step_z", -math.inf),
        Metric("big", 1e300),
    ]
    found = read_back(exposition(metrics, {"run": awkward}))
    run = ("run", awkward)
    assert math.isnan(found.pop(("prolong_step_x", frozenset([run]))))
    assert found == {
        ("prolong_learner_seconds_total", frozenset([run, ("activity", "wait")])): 1.5,
        ("prolong_learner_seconds_total", frozenset([run, ("activity", "compute")])): 2.0,
        ("prolong_step_y", frozenset([run, ("task", awkward)])): math.inf,
        ("prolong_step_z", frozenset([run])): -math.inf,
        ("prolong_big", frozenset([run])): 1e300,
    }


def test_a_number_under_one_name_and_labels_comes_once_and_names_stay_together() -> None:
    page = exposition([Metric("a", 1.0), Metric("b", 2.0), Metric("a", 3.0, labels={"x": "1"}), Metric("b", 4.0)], {})
    assert page == '# TYPE prolong_a gauge\nprolong_a{} 1\nprolong_a{x="1"} 3\n# TYPE prolong_b gauge\nprolong_b{} 4\n'


def test_units_are_written_out() -> None:
    assert unit_name("learner/wait_s") == "learner_wait_seconds"
    assert unit_name("perf/tokens_per_s_per_gpu") == "perf_tokens_per_second_per_gpu"
    assert unit_name("weights/sent_bytes") == "weights_sent_bytes"
    assert unit_name("buffer/lost_actors") == "buffer_lost_actors"


def test_what_a_name_carries_behind_a_slash_becomes_labels() -> None:
    told = {
        "reward/mean": ("step_reward_mean", {}),
        "reward/math": ("step_reward_domain", {"domain": "math"}),
        "reward/math/sum": ("step_reward_task", {"domain": "math", "task": "sum"}),
        "validation/sampled/mean": ("step_validation_mean", {"setting": "sampled"}),
        "validation/sampled/math": ("step_validation_domain", {"setting": "sampled", "domain": "math"}),
        "validation/greedy/math/a/b": ("step_validation_task", {"setting": "greedy", "domain": "math", "task": "a/b"}),
        "policy/staleness_2": ("step_policy_staleness_share", {"versions": "2"}),
        "perf/pool_running/big": ("step_perf_pool_running_by_pool", {"pool": "big"}),
        "perf/actor_tokens_per_s": ("step_perf_actor_tokens_per_second", {}),
    }
    found = {name: step_metric(name, 1.0) for name in told}
    assert {name: (metric.name, dict(metric.labels)) for name, metric in found.items()} == told

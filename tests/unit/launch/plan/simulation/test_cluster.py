from pathlib import Path

import pytest
from prolong.common.errors import ConfigError
from prolong.launch.plan.simulation.cluster import PoolDevice, cluster_of, read_cluster

TEXT = """
pools:
  h100: {count: 32, capacity: 256, step_base_s: 0.011, step_per_rollout_s: 4e-5, kv_tokens: 400000}
  a10: {count: 8, step_base_s: 0.04}
learner: {base_s: 4, per_token_s: 6.0e-6}
lengths:
  - {name: math, mean: 6000, spread: 0.9, prompt_tokens: 200}
  - {name: "1e5", share: 0.5, samples: [100, 2000, 9000]}
verifiers: {latency_s: 2.0, workers: 8}
weights: {publish_s: 1.5, pause_s: 0.4, transport: pull}
failures: {mtbf_s: 86400}
"""


def test_a_cluster_is_read_from_yaml(tmp_path: Path) -> None:
    (tmp_path / "cluster.yaml").write_text(TEXT)
    cluster = read_cluster(tmp_path / "cluster.yaml")
    assert cluster.num_actors == 40
    assert cluster.pools["h100"].step_per_rollout_s == 4e-5, "YAML takes 4e-5 for a text"
    assert cluster.lengths[1].samples == [100, 2000, 9000]
    assert cluster.lengths[1].name == "1e5", "a text that is quoted stays one"
    assert cluster.failures.restart_s == 60.0


LENGTHS = [{"mean": 100}]


@pytest.mark.parametrize(
    ("tree", "says"),
    [
        ({"pools": {}, "lengths": LENGTHS}, "pools = {}: expected at least one pool"),
        ({"pools": {"a": {"step_base_s": 1, "cuont": 2}}, "lengths": LENGTHS}, "pools.a.cuont"),
        ({"pools": {"a": {"step_base_s": 1}}}, "lengths = []: expected at least one class"),
        ({"pools": {"a": {}}, "lengths": LENGTHS}, "a step that takes time"),
        (
            {"pools": {"a": {"step_base_s": 1, "count": 1.5}}, "lengths": LENGTHS},
            "pools.a.count = 1.5: expected a whole number",
        ),
        ({"pools": {"a": {"step_base_s": 1}}, "lengths": [{"mean": 0}]}, "lengths.*.mean"),
        ({"pools": {"a": {"step_base_s": 1}}, "lengths": [{"mean": 9, "tail": 1}]}, "above 1"),
        ({"pools": {"a": {"step_base_s": -1}}, "lengths": LENGTHS}, "pools.*.step_base_s = -1.0: expected 0 or more"),
        ({"pools": {"a": {"step_base_s": 1}}, "lengths": LENGTHS, "weights": {"transport": "fax"}}, "collective or pull"),
        ({"pools": {"a": {"step_base_s": 1}}, "lengths": [{"mean": 9, "spread": 1e200}]}, "lengths.*.spread"),
        ({"pools": {"a": {"step_base_s": 1, "cores": 0, "helper_cores": 1}}, "lengths": LENGTHS}, "0 where cores is 0"),
        ({"pools": {"x" * 300: {"step_base_s": 1}}, "lengths": LENGTHS}, "names of at most 100"),
        ({"pools": {"a": {"step_base_s": 1}}, "lengths": [{"mean": 9, "name": "x" * 300}]}, "lengths.*.name"),
        ([], "expected a section with the keys pools"),
    ],
)
def test_a_mistake_is_named_by_its_key(tree: object, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        cluster_of(tree, "my.yaml")
    assert says in str(caught.value)
    assert str(caught.value).startswith("my.yaml: ")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing\.yaml"):
        read_cluster(tmp_path / "missing.yaml")


def test_the_roof_of_an_actor_is_what_it_samples_when_it_is_full() -> None:
    device = PoolDevice(capacity=64, step_base_s=0.02, step_per_rollout_s=0.0005)
    assert device.roof_tokens_per_s() == pytest.approx(64 / 0.052)
    full = PoolDevice(capacity=64, step_base_s=0.02, kv_tokens=8000)
    assert full.roof_tokens_per_s(mean_context=500) == pytest.approx(16 / 0.02), "the cache holds 16 of them"
    bound = PoolDevice(capacity=64, step_base_s=0.02, compute_per_rollout_s=0.001)
    assert bound.roof_tokens_per_s() == pytest.approx(1000), "a token takes a millisecond of arithmetic"

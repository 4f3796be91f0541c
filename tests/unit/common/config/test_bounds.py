"""Every number of the configuration has bounds: one that makes no sense is refused by its key before anything starts."""

import math

import pytest
from prolong.common.config.sections import Config
from prolong.common.config.trees import build_section, default_tree, dotted_keys
from prolong.common.errors import ConfigError

# factors of rewards, which may be below 0
SIGNED = {"rewards.truncated", "rewards.cosine_min"}


def numbers() -> list[str]:
    tree = default_tree()
    return [key for key in dotted_keys() if type(_at(tree, key)) in (int, float)]


def _at(tree: object, key: str) -> object:
    for part in key.split("."):
        tree = tree[part] if isinstance(tree, dict) else getattr(tree, part)
    return tree


def build(key: str, value: object) -> Config:
    tree = default_tree()
    tree["model"]["path"] = "m"
    *sections, name = key.split(".")
    section = tree
    for part in sections:
        section = section[part]
    section[name] = value
    return build_section(Config, tree)


@pytest.mark.parametrize("key", [key for key in numbers() if key not in SIGNED])
def test_a_negative_number_is_refused_by_its_key(key: str) -> None:
    whole = isinstance(_at(default_tree(), key), int)
    with pytest.raises(ConfigError, match=rf"{key} = -7"):
        build(key, -7 if whole else -7.0)


@pytest.mark.parametrize("key", [key for key in numbers() if type(_at(default_tree(), key)) is float])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_number_that_is_not_finite_is_refused_by_its_key(key: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"^{key} = "):
        build(key, value)


ZERO_IS_NO_VALUE = [
    "actor.grace_s", "launch.first_group_s", "launch.learner_ranks", "learner.grad_clip",
    "learner.logprob_chunk", "learner.max_skipped", "learner.starve_s", "learner.token_budget", "sampling.max_tokens",
    "sampling.temperature", "validation.max_tokens", "validation.n", "validation.temperature", "validation.top_p",
]  # fmt: skip


@pytest.mark.parametrize("key", ZERO_IS_NO_VALUE)
def test_zero_is_refused_where_it_would_stop_the_run(key: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{key} = 0"):
        build(key, 0 if isinstance(_at(default_tree(), key), int) else 0.0)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("run.name", ".."),
        ("run.name", "."),
        ("run.name", "a\nb"),
        ("run.name", "caf\udce9"),
        ("data.weights", {"a": math.nan}),
        ("run.seed", 2**63),
        ("learner.betas", [0.9, 1.0]),
        ("verifiers.max_none_rate", 1.5),
        ("actor.gpu_memory_utilization", 1.5),
    ],
)
def test_odd_values_are_refused_by_their_key(key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"^{key}"):
        build(key, value)

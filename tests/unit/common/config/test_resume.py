"""Every setting is classified, and what cannot change is named with both values."""

from collections.abc import Callable
from dataclasses import fields

import pytest
from prolong.common.config.algorithm import StageConfig
from prolong.common.config.choices import ResetSource, Straggler
from prolong.common.config.resume import CHANGES, Change, change_of, fixed_settings
from prolong.common.config.sections import Config, DataConfig, ModelConfig, SourceConfig
from prolong.common.config.trees import dotted_keys


def run(change: Callable[[Config], object] = lambda _: None) -> Config:
    sources = [SourceConfig(file="a.jsonl"), SourceConfig(file="b.jsonl")]
    stages = [StageConfig(name="short", steps=5), StageConfig(name="long", steps=5)]
    cfg = Config(model=ModelConfig(path="m"), data=DataConfig(train=sources), stages=stages)
    change(cfg)
    return cfg


def set_key(key: str, value: object) -> Callable[[Config], None]:
    def change(cfg: Config) -> None:
        owner: object = cfg
        *sections, name = key.split(".")
        for section in sections:
            owner = getattr(owner, section)
        setattr(owner, name, value)

    return change


def list_keys() -> list[str]:
    kinds = {"data.train[]": SourceConfig, "stages[]": StageConfig}
    return [f"{name}.{item.name}" for name, kind in kinds.items() for item in fields(kind)]


@pytest.mark.parametrize("key", [*dotted_keys(), *list_keys()])
def test_every_setting_is_classified(key: str) -> None:
    assert change_of(key) in Change


def test_every_classified_name_is_a_setting() -> None:
    known = {*dotted_keys(), *list_keys()}
    sections = {key.partition(".")[0] for key in known} | {"data.train[]", "stages[]"}
    assert set(CHANGES) <= known | sections
    with pytest.raises(KeyError):
        change_of("nonsense.key")


def test_the_kl_term_cannot_be_switched_on_but_changed_and_switched_off() -> None:
    without = run(set_key("objective.kl_beta", 0.0))
    (setting,) = fixed_settings(without, run(), 0)
    why = "its checkpoints hold no reference for a KL term"
    assert setting.sentence() == f"objective.kl_beta = 0.0001, but this run has 0.0: {why}"
    assert not [*fixed_settings(run(), without, 0)]
    assert not [*fixed_settings(run(), run(set_key("objective.kl_beta", 0.5)), 0)]


ADAPTIVE = "buffer.adaptive"


def test_the_largest_eta_may_grow_and_not_shrink_whether_it_adapts_or_not() -> None:
    adapts, wider = run(set_key(ADAPTIVE, {"max": 4})), run(set_key(ADAPTIVE, {"max": 6, "min": 1, "waiting": 0.2}))
    for recorded, given in ((run(), adapts), (adapts, wider), (adapts, run(set_key("buffer.eta", 4)))):
        assert not [*fixed_settings(recorded, given, 0)]
    (setting,) = fixed_settings(wider, adapts, 0)
    why = "groups under way may be older than a smaller bound allows; it may only grow"
    assert setting.sentence() == f"buffer.adaptive.max = 4, but this run has 6: {why}"
    (setting,) = fixed_settings(adapts, run(), 0)
    assert setting.sentence() == f"buffer.eta = 2, but this run has 4: {why}"


IMPOSSIBLE = {
    "model.lora": set_key("model.lora", {"rank": 8}),
    "run.seed": set_key("run.seed", 1),
    "buffer.batch_groups": set_key("buffer.batch_groups", 8),
    "buffer.eta": set_key("buffer.eta", 1),
    "buffer.straggler": set_key("buffer.straggler", Straggler.mask),
    "reference.source": set_key("reference.source", ResetSource.best),
    "data.train": lambda cfg: cfg.data.train.reverse(),
    "stages": lambda cfg: cfg.stages.insert(0, StageConfig(name="first", steps=1)),
}


@pytest.mark.parametrize(("key", "change"), IMPOSSIBLE.items(), ids=IMPOSSIBLE)
def test_what_cannot_change_is_named_with_both_values(key: str, change: Callable[[Config], object]) -> None:
    (setting,) = fixed_settings(run(), run(change), 0)
    assert setting.key == key
    assert setting.sentence().startswith(f"{key} = {setting.given}, but this run has {setting.recorded}: ")
    assert change_of(key) in (Change.fixed, Change.limited)


POSSIBLE = {
    "more steps": set_key("run.steps", 2000),
    "a larger bound": set_key("buffer.eta", 9),
    "the mixture": set_key("data.weights", {"a": 0.5}),
    "a file that moved": lambda cfg: setattr(cfg.data.train[0], "file", "elsewhere/a.jsonl"),
    "the data type": set_key("model.dtype", "bfloat16"),
    "ranks": set_key("launch.learner_ranks", 4),
    "rate": set_key("learner.lr", 1e-5),
    "group size": set_key("sampling.n", 32),
    "a verifier": set_key("verifiers.own", {"mine": "a:b"}),
    "a later stage": lambda cfg: cfg.stages.append(StageConfig(name="more", steps=5)),
    "a stage to come": lambda cfg: cfg.stages.pop(),
    "held-out files": set_key("data.heldout", [SourceConfig(file="c.jsonl")]),
}


@pytest.mark.parametrize("change", POSSIBLE.values(), ids=POSSIBLE)
def test_what_may_change_is_not_named(change: Callable[[Config], object]) -> None:
    assert not [*fixed_settings(run(), run(change), 0)]


def test_a_stage_that_has_begun_cannot_be_taken_out() -> None:
    (setting,) = fixed_settings(run(), run(lambda cfg: cfg.stages.pop()), 1)
    assert setting.sentence().startswith("stages = ['short'], but this run has ['short', 'long']: the run is in stage 1")

"""Stages and presets as configuration."""

from __future__ import annotations

import pytest
from prolong.common.config.choices import Advantage, Aggregation, Loss, Weighting
from prolong.common.config.run_files import load_config, save_config
from prolong.common.config.stages import staged_configs, total_steps
from prolong.common.errors import ConfigError
from prolong.launch.recipes import compose, presets

TWO = "stages=[{name: a, steps: 3, sampling: {n: 8, temperature: 1.2}}, {name: b, data: {weights: {x: 0}}, learner: {lr: 0.1}}]"
DATA = "data.train=[{file: x.jsonl}, {file: elsewhere/y.parquet, weight: 2}]"


def test_a_stage_lays_its_sections_over_the_run() -> None:
    cfg = compose("demo", [DATA, TWO, "learner.lr=0.5"])
    first, second = staged_configs(cfg)
    assert (first.sampling.n, first.sampling.temperature, first.learner.lr) == (8, 1.2, 0.5)
    assert (second.sampling.n, second.sampling.temperature, second.learner.lr) == (cfg.sampling.n, 1.0, 0.1)
    assert (first.data.mixture, second.data.mixture) == ([1.0, 2.0], [0.0, 2.0])
    assert first.stages == second.stages == []


def test_a_run_without_stages_is_one() -> None:
    cfg = compose("demo")
    assert staged_configs(cfg) == [cfg]
    assert total_steps(cfg) == cfg.run.steps


@pytest.mark.parametrize(
    ("stages", "steps"),
    [
        ("[{name: a, steps: 3}, {name: b, steps: 4}]", 7),
        ("[{name: a, steps: 3}, {name: b}]", 40),
        ("[{name: a, steps: 99}]", 40),
    ],
)
def test_the_most_steps_of_a_staged_run(stages: str, steps: int) -> None:
    assert total_steps(compose("demo", [f"stages={stages}"])) == steps


def test_stages_survive_the_run_folders_config(tmp_path) -> None:
    cfg = compose("demo", [DATA, TWO])
    save_config(cfg, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == cfg
    assert compose(str(tmp_path / "config.yaml")) == cfg


@pytest.mark.parametrize(
    ("stages", "said"),
    [
        ("[{name: a}, {name: b}]", "stages.0.steps = 0: expected a number of steps, on_trigger or target"),
        ("[{name: a, steps: 2}, {name: a}]", "a different name for every stage"),
        ("[{name: a, sampling: {nn: 3}}]", r"stage a \(stages.0\): sampling.nn = 3: unknown key; did you mean sampling.n"),
        ("[{name: a, sampling: {n: 1}}]", r"stage a \(stages.0\): sampling.n = 1: expected at least 2"),
        ("[{name: a, learner: {minibatches: 2}}]", "stages.0.learner.minibatches = 2: expected one of lr"),
        (
            "[{name: a, data: {weights: {z: 1}}}]",
            r"stage a \(stages.0\): data.weights.z = 1.0: expected one of the names train",
        ),
        ("[{name: a, data: {weights: {train: 0}}}]", "expected a source that weighs more than 0"),
        ("[{name: a, objective: {kl_beta: 0.0}}]", "stages.0.objective.kl_beta = 0.0: expected above 0, as in the run"),
        ("[{steps: 3}]", "stages.0.name is missing"),
        ("[{name: a, buffer: {eta: 3}}]", "stages.0.buffer = .*: unknown key"),
    ],
)
def test_what_is_wrong_with_a_stage_is_said_before_the_run(stages: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        compose("demo", [f"stages={stages}"])


def test_every_preset_composes_with_the_recipes() -> None:
    assert presets() == ["areal", "cispo", "dapo", "dr_grpo", "gspo", "justrl", "prorl", "prorl_v2"]
    for name in presets():
        for recipe in ("demo", "prorl_1_5b"):
            compose(recipe, [f"preset={name}"])


def test_presets_set_what_their_papers_did() -> None:
    made = {name: compose("demo", [f"preset={name}"]) for name in presets()}
    assert (made["prorl"].objective.clip_high, made["prorl"].objective.kl_beta, made["prorl"].learner.minibatches) == (
        0.4,
        1e-4,
        4,
    )
    assert made["prorl"].reference.reset_optimizer
    assert not made["prorl_v2"].reference.reset_optimizer
    assert made["prorl_v2"].objective.weighting is Weighting.mask
    assert made["prorl_v2"].objective.advantage is Advantage.global_norm
    assert made["dapo"].rewards.overlong_share == 0.2
    assert made["dr_grpo"].objective.aggregation is Aggregation.sequence_sum
    assert made["dr_grpo"].objective.length_constant == made["dr_grpo"].sampling.max_tokens
    assert made["cispo"].objective.loss is Loss.cispo
    assert made["gspo"].objective.loss is Loss.gspo
    assert made["areal"].buffer.eta == 4
    assert made["justrl"].objective.kl_beta == 0
    assert not made["justrl"].buffer.dynamic_sampling


def test_overrides_win_over_the_preset_and_the_preset_over_the_recipe() -> None:
    assert compose("demo", ["preset=prorl", "objective.clip_high=0.3"]).objective.clip_high == 0.3
    assert compose("demo", ["preset=dapo"]).objective.kl_beta == 0.0


def test_an_unknown_preset_is_refused() -> None:
    with pytest.raises(ConfigError, match="preset = 'prolr': expected one of areal, cispo"):
        compose("demo", ["preset=prolr"])


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["preset=gspo", "objective.dual_clip=3"], "objective.dual_clip = 3.0: expected 0: loss gspo has no dual clip"),
        (["objective.correction=bypass", "objective.weighting=mask"], "would count twice"),
        (["objective.kl_weight=none"], "objective.kl_weight = 'none': expected live for k3 in the loss"),
        (["objective.kl_estimator=k2", "objective.kl_weight=live"], "objective.kl_weight = 'live': expected detached for k2"),
        (
            ["objective.loss=m2po", "objective.correction=decoupled"],
            "objective.correction = 'decoupled': expected bypass: loss m2po",
        ),
        (["objective.kl_placement=reward"], "objective.kl_estimator = 'k3': expected k1"),
        (["reference.source=best"], "validation.every = 5: expected a multiple of checkpoint.every = 10"),
    ],
)
def test_switches_that_contradict_each_other_are_refused(overrides: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        compose("demo", overrides)

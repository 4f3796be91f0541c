"""Recipes compose, and say what their sources say."""

from pathlib import Path

import pytest
from prolong.common.compose import CONF_FOLDER, compose, recipes
from prolong.common.config import Advantage, Aggregation, Config


def test_every_recipe_composes_or_says_what_must_be_given() -> None:
    assert recipes() == ["default", "demo", "prorl_1_5b"]
    for recipe in recipes():
        compose(recipe, ["model=somewhere"] if recipe == "default" else [])


def test_the_default_recipe_changes_no_default() -> None:
    assert compose("default", ["model=x"]) == compose("", ["model=x"])


def test_prorl_holds_the_papers_settings() -> None:
    """Source: arXiv 2507.12507, section 3 and table of hyper-parameters."""
    cfg: Config = compose("prorl_1_5b", [])
    assert cfg.model.path == "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"
    assert (cfg.buffer.batch_groups, cfg.learner.minibatches, cfg.sampling.n) == (256, 4, 16)
    assert (cfg.sampling.temperature, cfg.model.max_context) == (1.2, 8192)
    assert (cfg.learner.lr, cfg.learner.betas, cfg.learner.weight_decay, cfg.learner.grad_clip) == (
        2e-6,
        (0.9, 0.999),
        0.01,
        1.0,
    )
    assert (cfg.objective.clip_low, cfg.objective.clip_high, cfg.objective.kl_beta) == (0.2, 0.4, 1e-4)
    assert (cfg.objective.advantage, cfg.objective.aggregation) == (Advantage.group_std, Aggregation.token_mean)
    assert cfg.buffer.dynamic_sampling
    assert (cfg.validation.temperature, cfg.validation.top_p, cfg.validation.n) == (0.6, 0.95, 16)
    assert cfg.reference.reset_every > 0
    assert cfg.reference.reset_optimizer


def test_no_recipe_asks_for_a_nonstandard_network_address() -> None:
    for recipe in recipes():
        cfg = compose(recipe, ["model=x"])
        assert cfg.buffer.address.startswith("tcp://127.0.0.1:")


@pytest.mark.parametrize("path", sorted(CONF_FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_recipe_says_what_it_is_for(path: Path) -> None:
    assert path.read_text().startswith("# ")

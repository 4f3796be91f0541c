"""Recipes compose, and say what their sources say."""

from pathlib import Path

import pytest
import torch
from prolong.common.config.choices import Advantage, Aggregation
from prolong.common.config.sections import Config
from prolong.common.errors import ConfigError
from prolong.launch.recipes import CONF_FOLDER, check_pool_overrides, compose, recipes
from prolong.learner.model.policy import Policy, build_policy
from prolong.learner.model.reference import Reference
from prolong.learner.ranks import Ranks
from prolong.learner.step import StepConfig, Trainer

from tests.support.tiny_model import make_tiny_model


def test_every_recipe_composes_or_says_what_must_be_given() -> None:
    assert recipes() == ["default", "demo", "demo_pools", "demo_stages", "prorl_1_5b", "smollm2"]
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
    assert (cfg.reference.plateau, cfg.reference.drop) == (3, 0.05)
    assert cfg.reference.reset_optimizer


def test_no_recipe_asks_for_a_nonstandard_network_address() -> None:
    for recipe in recipes():
        cfg = compose(recipe, ["model=x"])
        assert cfg.buffer.address.startswith("tcp://127.0.0.1:")


@pytest.mark.parametrize("path", sorted(CONF_FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_recipe_says_what_it_is_for(path: Path) -> None:
    assert path.read_text().startswith("# ")


def test_prorl_builds_the_learner_from_a_tiny_stand_in(tmp_path: Path) -> None:
    """The recipe as it is, but for the model, its place and its precision."""
    model = make_tiny_model(tmp_path, tied=True)
    cfg = compose("prorl_1_5b", [f"model={model}", "model.device=cpu", "model.dtype=float32"])

    def build(*, trainable: bool) -> Policy:
        return build_policy(
            cfg.model,
            device=torch.device("cpu"),
            chunk=cfg.learner.logprob_chunk,
            shard=False,
            reshard=cfg.learner.fsdp_reshard,
            trainable=trainable,
        )

    trainer = Trainer(
        StepConfig.of(cfg), build(trainable=True), Reference(build(trainable=False)), Ranks(), torch.device("cpu")
    )
    (group, *_) = trainer.optimizer.param_groups
    assert (group["lr"], group["betas"], group["weight_decay"]) == (2e-6, (0.9, 0.999), 0.01)


def test_an_override_that_a_pool_would_cover_is_refused() -> None:
    cfg = compose("demo_pools")
    check_pool_overrides(cfg, "small", ["actor.grace_s=3", "pools.small.actor.capacity=3"])
    check_pool_overrides(cfg, "", ["actor.capacity=3"])
    with pytest.raises(
        ConfigError, match=r"actor.capacity=3: pool small sets actor.capacity = 64 itself; give pools.small.actor"
    ):
        check_pool_overrides(cfg, "small", ["actor.capacity=3"])

"""Which parameters have weight decay."""

import pytest
import torch
from prolong.common.config.sections import LearnerConfig
from prolong.common.errors import ConfigError
from prolong.learner.optimizer import build_optimizer
from torch import nn


def model() -> nn.Module:
    layers = nn.ModuleList(nn.ModuleDict({"norm": nn.LayerNorm(2), "proj": nn.Linear(2, 2)}) for _ in range(2))
    return nn.ModuleDict({"layers": layers})


def decayed(cfg: LearnerConfig) -> set[str]:
    """The parameters that shrink in a step with a gradient of zero."""
    net = model()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.fill_(1.0)
            parameter.grad = torch.zeros_like(parameter)
    build_optimizer(net, cfg).step()
    return {name for name, parameter in net.named_parameters() if not torch.equal(parameter, torch.ones_like(parameter))}


def test_by_default_every_parameter_decays() -> None:
    assert decayed(LearnerConfig(lr=0.1)) == {name for name, _ in model().named_parameters()}


def test_parameters_whose_name_contains_a_pattern_do_not_decay() -> None:
    cfg = LearnerConfig(lr=0.1, no_decay=["norm", "bias"])
    assert decayed(cfg) == {"layers.0.proj.weight", "layers.1.proj.weight"}


def test_every_parameter_may_be_spared() -> None:
    assert decayed(LearnerConfig(lr=0.1, no_decay=["layers"])) == set()


@pytest.mark.parametrize("pattern", ["nrom", ""])
def test_a_pattern_that_matches_nothing_is_refused_with_the_names_there_are(pattern: str) -> None:
    said = f"learner.no_decay = '{pattern}': expected a part of a trained parameter's name: layers.*.norm.weight, layers.*.norm"
    with pytest.raises(ConfigError) as caught:
        build_optimizer(model(), LearnerConfig(no_decay=["norm", pattern]))
    assert str(caught.value).startswith(said)


def test_frozen_parameters_are_not_the_optimizers() -> None:
    net = model()
    net.get_parameter("layers.0.proj.weight").requires_grad_(False)
    assert sum(len(group["params"]) for group in build_optimizer(net, LearnerConfig()).param_groups) == 7

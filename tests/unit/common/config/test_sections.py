"""Defaults are a valid configuration, and every range that is checked names its dotted key."""

import pytest
from prolong.common.config.sections import (
    AdaptiveConfig,
    BufferConfig,
    Config,
    ModelConfig,
    ObjectiveConfig,
    ReferenceConfig,
    RunConfig,
    SamplingConfig,
    SourceConfig,
    ValidationConfig,
)
from prolong.common.config.trees import adaptive_config, build_section, default_tree
from prolong.common.errors import ConfigError


def test_defaults_stand_for_themselves():
    tree = default_tree()
    tree["model"]["path"] = "x"
    cfg = build_section(Config, tree)
    cfg.model.path = "???"
    assert cfg == Config()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: BufferConfig(eta=-1), r"buffer.eta = -1: expected 0 or more"),
        (lambda: AdaptiveConfig(min=-1), r"buffer.adaptive.min = -1: expected 0 or more"),
        (
            lambda: AdaptiveConfig(min=3, max=3),
            r"buffer.adaptive.max = 3: expected more than min = 3; a fixed",
        ),
        (lambda: AdaptiveConfig(ess=1.0), r"buffer.adaptive.ess = 1.0: expected between 0 and 1"),
        (lambda: AdaptiveConfig(window=0), r"buffer.adaptive.window = 0: expected at least 1"),
        (
            lambda: adaptive_config(BufferConfig(adaptive={"mx": 4})),
            r"buffer.adaptive.mx = 4: unknown key; did you mean buffer.adaptive.max\?",
        ),
        (lambda: adaptive_config(BufferConfig(eta=9, adaptive={"max": 4})), r"buffer.eta = 9: expected from 0 to 4, between"),
        (lambda: BufferConfig(heartbeat_s=20.0), r"buffer.heartbeat_s = 20.0: expected above 0 and below buffer.silence_s"),
        (lambda: BufferConfig(batch_groups=0), r"buffer.batch_groups = 0: expected at least 1"),
        (lambda: BufferConfig(max_message_mb=5000), r"buffer.max_message_mb = 5000: expected from 1 to 4096"),
        (
            lambda: Config(reference=ReferenceConfig(ema=0.9), objective=ObjectiveConfig(kl_beta=0.0)),
            r"reference.ema = 0.9: expected 0 with objective.kl_beta = 0",
        ),
        (
            lambda: Config(reference=ReferenceConfig(ema=0.9), model=ModelConfig(lora={"rank": 2})),
            r"reference.ema = 0.9: expected 0 with model.lora: an average of the factors",
        ),
        (
            lambda: Config(buffer=BufferConfig(max_message_mb=1)),
            r"max_message_mb = 1: expected at least 2: a batch of 16 groups of 16",
        ),
        (lambda: SamplingConfig(n=1), r"sampling.n = 1: expected at least 2"),
        (lambda: SamplingConfig(top_p=1.5), r"sampling.top_p = 1.5: expected in \(0, 1\]"),
        (lambda: SamplingConfig(top_k=-1), r"sampling.top_k = -1: expected 0 or more"),
        (lambda: SamplingConfig(min_p=1.0), r"sampling.min_p = 1.0: expected in \[0, 1\)"),
        (lambda: ValidationConfig(stop=["a", ""]), r"validation.stop = \['a', ''\]: expected at most 16 texts of 1 to 64"),
        (lambda: RunConfig(name="a/b"), r"run.name = 'a/b': expected a folder name"),
        (lambda: ReferenceConfig(reset_every=-5), r"reference.reset_every = -5"),
        (lambda: SourceConfig(file="x", weight=-1.0), r"data.\*.weight = -1.0: expected 0 or more"),
    ],
)
def test_a_value_out_of_range_is_refused_by_its_dotted_key(make, said):
    with pytest.raises(ConfigError, match=said):
        make()

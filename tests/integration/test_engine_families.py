"""Families of models that vLLM keeps in another form than transformers: what it samples is of the very weights it was sent."""

from pathlib import Path

import pytest
from transformers import GptOssConfig, Lfm2Config, MixtralConfig, PhiConfig, PreTrainedConfig

from tests.support.engine_rig import differences, rig_for
from tests.support.tiny_model import family_settings, make_tiny_family

FAMILIES = {
    # vLLM packs the experts; transformers holds them in one tensor
    "experts": MixtralConfig(**family_settings(head_dim=32, num_local_experts=4)),
    # vLLM copies experts and sinks past the loaders of a reload
    "direct_copies": GptOssConfig(**family_settings(head_dim=32, num_local_experts=4, num_experts_per_tok=2)),
    # a rotary kernel that takes other shapes than this model gives it, and convolutions
    "short_convolutions": Lfm2Config(
        **family_settings(layer_types=["conv", "full_attention"], conv_dim=64, block_auto_adjust_ff_dim=False, block_dim=64)
    ),
    # vLLM gives the head a bias only when it loads one; 97 tokens are padded to 128
    "biased_head": PhiConfig(**family_settings(num_key_value_heads=2, partial_rotary_factor=0.5, vocab_size=97)),
}


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("config", FAMILIES.values(), ids=FAMILIES)
def test_log_probabilities_agree_after_every_update(tmp_path: Path, config: PreTrainedConfig) -> None:
    rig = rig_for(make_tiny_family(tmp_path, config))
    try:
        for version in (0, 1, 2):
            if version > 0:
                rig.run(rig.push(version))
            completions = rig.generate(seed=version)
            assert differences(rig, completions, 1.0, version).max() < 1e-4
    finally:
        rig.close()

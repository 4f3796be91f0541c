"""An engine that computes otherwise than the learner (`actor.engine_args`) still says what it sampled from.

Weights in 8 bits are made anew from each update, keys and values are kept in 8 bits: the policy of the engine is another one,
and behaviour log-probabilities must be those of that policy, or no importance weight could make up for the difference.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from prolong.common.types import float32_array, int32_array

from tests.support.engine_rig import differences, rig_for
from tests.support.tiny_model import make_tiny_model

NARROW: dict[str, object] = {"quantization": "fp8_per_channel", "kv_cache_dtype": "fp8"}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_in_8_bits_updates_are_loaded_and_behaviour_logprobs_are_of_what_was_sampled(tmp_path: Path) -> None:
    rig = rig_for(make_tiny_model(tmp_path, tied=True), dtype="bfloat16", engine_args=NARROW)
    try:
        for version in (1, 2):
            rig.run(rig.push(version))
            completions = rig.generate(seed=version, max_tokens=100)
            near = differences(rig, completions, 1.0, version).mean()
            # 8 bits differ from the learner's numbers, and far more from those of the version before
            assert 0.01 < near < 0.3
            assert differences(rig, completions, 1.0, version - 1).mean() > 3 * near
        drawn: dict[int, list[float]] = defaultdict(list)
        for seed in range(64):
            for completion in rig.generate(seed=seed, max_tokens=1):
                token = int(int32_array(completion.token_ids)[0])
                drawn[token].append(float(float32_array(completion.behaviour_logprobs)[0]))
    finally:
        rig.close()
    total = sum(map(len, drawn.values()))
    assert total == 1024
    for token, logprobs in drawn.items():
        probability = np.exp(np.mean(logprobs))
        assert np.std(logprobs) < 0.02, token
        deviation = (len(logprobs) / total - probability) / np.sqrt(probability * (1 - probability) / total)
        assert abs(deviation) < 4.5, (token, probability)

"""What a forward pass keeps for the backward pass, by kind of recomputing; that gradients are equal is in test_policy.py."""

from pathlib import Path

from prolong.common.config.choices import Recompute
from prolong.learner.batches.packing import pack

from tests.support.batches import make_policy, random_batch, samples_under, small_config
from tests.support.live_bytes import LiveBytes
from tests.support.tiny_model import make_tiny_model


def kept_bytes(folder: Path, recompute: Recompute) -> int:
    """Bytes that exist after a forward pass beyond those of the model."""
    cfg = small_config(folder)
    cfg.learner.recompute = recompute
    policy = make_policy(cfg)
    (micro,) = pack(samples_under(cfg, random_batch(0))[0], token_budget=10_000, layout=policy.layout)
    with LiveBytes() as counted:
        result = policy.logprobs(micro)
    assert result[0].requires_grad
    storages = {p.untyped_storage()._cdata for p in policy.parameters()}
    return sum(size for storage, size in counted.live.items() if storage not in storages)


def test_selective_recompute_keeps_less_than_everything_and_more_than_the_inputs_of_layers(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path, tied=False)
    kept = {kind: kept_bytes(folder, kind) for kind in Recompute}
    assert 0 < 3 * kept[Recompute.true] < kept[Recompute.selective] < 0.7 * kept[Recompute.false]

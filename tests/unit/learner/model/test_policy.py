"""No leak, for every attention backend of this machine; and the numbers of transformers itself."""

import json
from pathlib import Path

import pytest
import torch
from prolong.common.errors import ModelError
from prolong.learner.batches.packing import MicroBatch, PackingLayout, Sample, pack
from prolong.learner.model.policy import Policy

from tests.support.batches import assert_same_gradient, make_policy, random_batch, samples_under, small_config
from tests.support.tiny_model import make_tiny_model

BACKENDS = ["documents", "sdpa", "eager"]


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("model"), tied=request.param)


def policy_and_samples(folder: Path, attention: str) -> tuple[Policy, list[Sample]]:
    cfg = small_config(folder)
    cfg.model.attention = attention
    (samples,) = samples_under(cfg, random_batch(0, groups=4, n=5))
    return make_policy(cfg), samples


def by_document(policy: Policy, samples: list[Sample], micros: list[MicroBatch]) -> list[list[float]]:
    """Log-probabilities of every sample; its number travels in the place of its advantage."""
    found: dict[int, list[float]] = {i: [] for i in range(len(samples))}
    with torch.no_grad():
        for micro in micros:
            for mark, value in zip(micro.advantage.tolist(), policy.logprobs(micro)[0].tolist(), strict=True):
                found[int(mark)].append(value)
    return list(found.values())


def packed_logprobs(policy: Policy, samples: list[Sample], budget: int) -> list[list[float]]:
    for i, sample in enumerate(samples):
        sample.advantage = float(i)
    return by_document(policy, samples, pack(samples, token_budget=budget, layout=policy.layout, dtype=torch.float64))


@pytest.mark.parametrize("attention", BACKENDS)
@pytest.mark.parametrize("budget", [64, 4096])
def test_packed_logprobs_are_those_of_transformers_on_each_rollout_alone(folder: Path, attention: str, budget: int) -> None:
    policy, samples = policy_and_samples(folder, attention)
    packed = packed_logprobs(policy, samples, budget)
    policy.causal.set_attn_implementation("sdpa")
    for sample, got in zip(samples, packed, strict=True):
        tokens = torch.tensor([*sample.prompt, *sample.completion]).long()
        with torch.no_grad():
            logits = policy.causal(input_ids=tokens[None]).logits[0] / sample.temperature
        table = logits.log_softmax(-1)[:-1].gather(1, tokens[1:, None])[len(sample.prompt) - 1 :, 0]
        assert got == pytest.approx(table.tolist(), abs=2e-6)


@pytest.mark.parametrize("attention", BACKENDS)
def test_no_document_sees_another(folder: Path, attention: str) -> None:
    """Contract test: change every token of all documents but one; the numbers of that one must not change by a bit."""
    policy, samples = policy_and_samples(folder, attention)
    samples = samples[::5]  # one per prompt
    before = packed_logprobs(policy, samples, 4096)
    for sample in samples[:2] + samples[3:]:
        sample.prompt = (sample.prompt + 7) % 60
        sample.completion = (sample.completion + 7) % 60
    after = packed_logprobs(policy, samples, 4096)
    assert after[2] == before[2]
    assert after[0] != before[0]


def test_the_leak_test_would_notice_a_leak(folder: Path) -> None:
    """With positions that do not restart, transformers takes the row for one document."""
    policy, samples = policy_and_samples(folder, "sdpa")
    (micro,) = pack(samples[::5], token_budget=4096, layout=PackingLayout.rows, dtype=torch.float64)
    right = policy.logprobs(micro)[0]
    micro.position_ids = torch.arange(micro.position_ids.shape[1]).expand_as(micro.position_ids)
    assert (policy.logprobs(micro)[0] - right).abs().max() > 1e-3


def test_gradients_are_the_same_in_every_layout_and_for_every_budget(folder: Path) -> None:
    gradients = []
    for attention, budget in [("sdpa", 4096), ("sdpa", 64), ("documents", 4096), ("documents", 64), ("documents", 30)]:
        policy, samples = policy_and_samples(folder, attention)
        for micro in pack(samples, token_budget=budget, layout=policy.layout, dtype=torch.float64):
            (micro.weight * micro.advantage * policy.logprobs(micro)[0]).sum().backward()
        gradients.append([p.grad for p in policy.parameters() if p.grad is not None])
    for other in gradients[1:]:
        assert_same_gradient(gradients[0], other)


def test_recomputed_activations_give_the_same_gradient_with_dropout_taken_out(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path, tied=False)
    written = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(written | {"attention_dropout": 0.5}))
    (samples,) = samples_under(small_config(folder), random_batch(0))
    gradients = []
    for recompute in (False, True):
        cfg = small_config(folder)
        cfg.learner.recompute = recompute
        policy = make_policy(cfg)
        for micro in pack(samples, token_budget=64, layout=policy.layout, dtype=torch.float64):
            (micro.weight * micro.advantage * policy.logprobs(micro)[0]).sum().backward()
        gradients.append([p.grad for p in policy.parameters() if p.grad is not None])
    assert_same_gradient(*gradients)


def test_full_parameters_have_the_names_of_the_checkpoint_and_tied_weights_once(folder: Path) -> None:
    policy, _ = policy_and_samples(folder, "documents")
    names = [name for name, _ in policy.full_parameters()]
    assert len(names) == len(set(names))
    assert "model.embed_tokens.weight" in names
    assert ("lm_head.weight" in names) == (not policy.causal.config.tie_word_embeddings)


def test_weights_of_another_model_are_refused_by_name(folder: Path) -> None:
    policy, _ = policy_and_samples(folder, "documents")
    tensors = dict(policy.full_parameters())
    tensors["model.norm.weight"] = torch.zeros(3)
    with pytest.raises(ModelError, match=r"model\.norm\.weight"):
        policy.copy_parameters(tensors)
    tensors.pop("model.norm.weight")
    with pytest.raises(ModelError, match=r"model\.norm\.weight"):
        policy.copy_parameters(tensors)


def test_a_head_that_the_learner_does_not_compute_is_refused(folder: Path) -> None:
    policy, _ = policy_and_samples(folder, "documents")
    policy.causal.config.final_logit_softcapping = 30.0
    with pytest.raises(ModelError, match="final_logit_softcapping"):
        Policy(policy.causal, chunk=1)

"""No leak, for every attention backend of this machine; and the numbers of transformers itself."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from prolong.common.config.choices import Recompute
from prolong.common.config.sections import ModelConfig
from prolong.common.errors import ModelError
from prolong.learner.batches.packing import MicroBatch, PackingLayout, Sample, pack
from prolong.learner.model.policy import Policy, build_policy
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from tests.support.batches import assert_same_gradient, make_policy, random_batch, samples_under, small_config
from tests.support.tiny_model import make_tiny_model, randomize

DEEPSEEK = {
    "vocab_size": 64,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "q_lora_rank": 32,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 32,
    "v_head_dim": 32,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
}
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


def logprobs_alone(causal: nn.Module, sample: Sample) -> list[float]:
    """What transformers computes of one rollout by itself."""
    tokens = torch.tensor([*sample.prompt, *sample.completion]).long()
    with torch.no_grad():
        logits = causal(input_ids=tokens[None]).logits[0] / sample.temperature
    return logits.log_softmax(-1)[:-1].gather(1, tokens[1:, None])[len(sample.prompt) - 1 :, 0].tolist()


@pytest.mark.parametrize("attention", BACKENDS)
@pytest.mark.parametrize("budget", [64, 4096])
def test_packed_logprobs_are_those_of_transformers_on_each_rollout_alone(folder: Path, attention: str, budget: int) -> None:
    policy, samples = policy_and_samples(folder, attention)
    packed = packed_logprobs(policy, samples, budget)
    policy.causal.set_attn_implementation("sdpa")
    for sample, got in zip(samples, packed, strict=True):
        assert got == pytest.approx(logprobs_alone(policy.causal, sample), abs=2e-6)


WINDOW = 8


def windowed_model(folder: Path, **settings: Any) -> Path:
    """The tiny model as one whose layers see a window of so many tokens, the first or all of them."""
    make_tiny_model(folder, tied=True)
    written = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(written | {"sliding_window": WINDOW, "use_sliding_window": True} | settings))
    return folder


@pytest.mark.parametrize("kinds", [["sliding_attention", "full_attention"], ["sliding_attention"] * 2])
@pytest.mark.parametrize("attention", BACKENDS)
def test_layers_with_a_sliding_window_compute_what_transformers_does(tmp_path: Path, attention: str, kinds: list[str]) -> None:
    """As in Gemma 3 and Mistral: documents longer than the window, in every attention setting."""
    folder = windowed_model(tmp_path, layer_types=kinds)
    policy, samples = policy_and_samples(folder, attention)
    assert max(len(sample.prompt) + len(sample.completion) for sample in samples) > 2 * WINDOW
    packed = packed_logprobs(policy, samples, 4096)
    policy.causal.set_attn_implementation("eager")
    for sample, got in zip(samples, packed, strict=True):
        assert got == pytest.approx(logprobs_alone(policy.causal, sample), abs=2e-6)


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
    for recompute in Recompute:
        cfg = small_config(folder)
        cfg.learner.recompute = recompute
        policy = make_policy(cfg)
        for micro in pack(samples, token_budget=64, layout=policy.layout, dtype=torch.float64):
            (micro.weight * micro.advantage * policy.logprobs(micro)[0]).sum().backward()
        gradients.append([p.grad for p in policy.parameters() if p.grad is not None])
    for recomputed in gradients[1:]:
        assert all(torch.equal(kept, again) for kept, again in zip(gradients[0], recomputed, strict=True))


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


FAMILIES = {
    "gemma2": {"final_logit_softcapping": 2.0, "attn_logit_softcapping": 1.5, "sliding_window": 6, "head_dim": 32},
    "granite": {"logits_scaling": 3.0},
    "cohere": {"logit_scale": 0.25},
    "deepseek_v3": DEEPSEEK,
    "gpt_oss": {"head_dim": 32, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 6},
    "lfm2": {"layer_types": ["conv", "full_attention"], "block_ff_dim": 64},
    "mamba": {"state_size": 4},
    "falcon": {},
    # its attention does not hand the plan of a micro-batch on
    "nemotron": {"head_dim": 32},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_families_have_the_numbers_of_transformers_on_each_rollout_alone(tmp_path: Path, family: str) -> None:
    """Soft caps, scales, sinks, windows, recurrent layers, attention of their own: no family leaks between documents."""
    settings = {"vocab_size": 64, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    causal = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **settings | heads | FAMILIES[family]))
    randomize(causal, 1)
    causal.save_pretrained(tmp_path)
    if family in ("gemma2", "gpt_oss"):
        # the only implementation of transformers that knows caps and sinks
        causal.set_attn_implementation("eager")
    policy = build_policy(ModelConfig(path=str(tmp_path)), device=torch.device("cpu"), chunk=16, shard=False)
    (samples,) = samples_under(small_config(tmp_path), random_batch(0, groups=3, n=3))
    packed = packed_logprobs(policy, samples, 256)
    for sample, got in zip(samples, packed, strict=True):
        assert got == pytest.approx(logprobs_alone(causal.eval(), sample), abs=1e-4)


def test_attention_without_caps_is_refused_for_a_model_with_caps(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path, tied=False)
    written = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(written | {"attn_logit_softcapping": 50.0}))
    with pytest.raises(ModelError, match=r"model\.attention = 'sdpa'.*documents"):
        build_policy(ModelConfig(path=str(folder), attention="sdpa"), device=torch.device("cpu"), chunk=8, shard=False)


def test_the_factors_of_a_long_rope_depend_on_the_context_alone(tmp_path: Path) -> None:
    """vLLM takes the long factors as soon as its limit asks for them, also for short documents."""
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 128}
    factors = {"short_factor": [1.0] * 16, "long_factor": [2.0 + i for i in range(16)]}
    make_tiny_model(tmp_path, tied=False)
    written = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(written | {"rope_parameters": rope | factors}))
    (samples,) = samples_under(small_config(tmp_path), random_batch(0, groups=2, n=2))
    found = []
    for context in (128, 256):
        model = ModelConfig(path=str(tmp_path), max_context=context)
        policy = build_policy(model, device=torch.device("cpu"), chunk=16, shard=False)
        found.append(packed_logprobs(policy, samples, 4096))
        assert packed_logprobs(policy, samples[:1], 4096)[0] == pytest.approx(found[-1][0], abs=1e-5)
    assert found[0][0] != pytest.approx(found[1][0], abs=1e-2)


def test_windows_of_cohere_2_see_one_token_more_as_the_engine_has_it(tmp_path: Path) -> None:
    settings = {"vocab_size": 64, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 4, "sliding_window": 6}
    causal = AutoModelForCausalLM.from_config(
        AutoConfig.for_model("cohere2", num_attention_heads=2, num_key_value_heads=2, **settings)
    )
    causal.save_pretrained(tmp_path)
    policy = build_policy(ModelConfig(path=str(tmp_path)), device=torch.device("cpu"), chunk=16, shard=False)
    windows = [module.sliding_window for module in policy.causal.modules() if hasattr(module, "sliding_window")]
    assert windows == [7, 7, 7, None]
    assert policy.causal.config.sliding_window == 6, "checkpoints keep what the model's own config.json says"


def test_buffers_that_files_store_are_published(tmp_path: Path) -> None:
    """The correction bias of a router is no parameter: an engine without it would choose other experts."""
    causal = AutoModelForCausalLM.from_config(AutoConfig.for_model("deepseek_v3", **DEEPSEEK))
    policy = Policy(causal, chunk=8)
    names = dict(policy.full_parameters(torch.bfloat16))
    (bias,) = [name for name in names if name.endswith("e_score_correction_bias")]
    assert names[bias].dtype == torch.float32
    assert [(name, tensor.dtype, tensor.shape) for name, tensor in names.items()] == policy.full_shapes(torch.bfloat16)

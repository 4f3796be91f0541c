"""`actor.engine_args`: any argument of vLLM's engine, but none that would break what a run relies on."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest
import torch
from prolong.actor.engines.vllm import engine_arguments, settings
from prolong.actor.engines.vllm.engine_arguments import (
    ONLINE_QUANTIZATION,
    argument_names,
    check_engine_args,
    check_types,
)
from prolong.common.config.choices import Device, EngineKind
from prolong.common.config.sections import ActorConfig, Config, ModelConfig, SamplingConfig
from prolong.common.errors import ConfigError, ModelError

from tests.support.tiny_model import make_tiny_model

if TYPE_CHECKING:
    from vllm.config import VllmConfig


@pytest.fixture
def environment() -> Iterator[None]:
    """vLLM's configuration sets variables, and imports what warns."""
    before = dict(os.environ)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    os.environ.clear()
    os.environ.update(before)


def check(given: dict[str, object], *, gpu: bool = True, min_p: float = 0.0) -> None:
    check_engine_args(Config(actor=ActorConfig(engine_args=given), sampling=SamplingConfig(min_p=min_p)), gpu=gpu)


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize(
    "given",
    [
        {"quantization": "fp8_per_tensor"},
        {"kv_cache_dtype": "fp8", "max_num_batched_tokens": 16384},
        {"speculative_config": {"method": "ngram", "num_speculative_tokens": 4, "prompt_lookup_max": 4}},
        {"compilation_config": {"mode": 0}, "enable_prefix_caching": False, "attention_backend": "FLASH_ATTN"},
    ],
)
def test_settings_of_speed_and_memory_are_taken(given: dict[str, object]) -> None:
    check(given)
    check_types(given)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"model": "other"}, "it is set by model.path"),
        ({"max_model_len": 9}, "it is set by model.max_context"),
        ({"load_format": "auto"}, "it cannot be given: the engine starts without weights"),
        ({"logprobs_mode": "raw_logprobs"}, "behaviour log-probabilities must be those"),
        ({"data_parallel_size": 2}, "start more actors instead"),
        ({"kv_transfer_config": {}}, "older weights computed"),
        ({"enable_sleep_mode": True}, "neither generates nor receives weights"),
        ({"max_num_batched_token": 9}, "no engine argument of that name; did you mean max_num_batched_tokens"),
        ({"quantization": "awq"}, r"expected one of fp8_per_tensor, .*the learner's weights are not quantized"),
        ({"speculative_config": {"method": "eagle", "model": "x"}}, "random weights"),
        ({"speculative_config": {"method": "ngram", "rejection_sample_method": "synthetic"}}, "would not have sampled"),
    ],
)
def test_what_would_break_a_promise_is_refused_with_the_reason(given: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=rf"^actor\.engine_args\.{next(iter(given))} = .*{said}"):
        check(given)


def test_drafts_are_refused_where_vllm_cannot_verify_them() -> None:
    drafts: dict[str, object] = {"speculative_config": {"method": "ngram", "num_speculative_tokens": 3}}
    with pytest.raises(ConfigError, match="no log-probabilities of drafted tokens on a CPU"):
        check(drafts, gpu=False)
    with pytest.raises(ConfigError, match=r"sampling\.min_p .*speculative_config"):
        check(drafts, min_p=0.1)


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"max_num_batched_tokens": "8192"}, "should be a valid integer"),
        ({"enforce_eager": 1}, "should be a valid boolean"),
        ({"compilation_config": {"no_such_key": 0}}, "Unexpected keyword argument"),
        ({"speculative_config": "ngram"}, "should be a valid dictionary"),
    ],
)
def test_a_value_of_another_type_is_refused_before_a_process_starts(given: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=rf"^actor\.engine_args\.{next(iter(given))} = .*{said}"):
        check_types(given)


@pytest.mark.usefixtures("environment")
def test_the_names_are_those_of_vllms_class_and_the_tables_name_no_others() -> None:
    from vllm.config.quantization import ONLINE_QUANT_SHORTHAND_NAMES
    from vllm.engine.arg_utils import AsyncEngineArgs

    public = {field.name for field in dataclasses.fields(AsyncEngineArgs) if not field.name.startswith("_")}
    assert argument_names() == public
    # a newer vLLM may have arguments that this one lacks
    newer = {"sleep_mode_backend"}
    assert (engine_arguments._OURS.keys() | engine_arguments._REFUSED.keys()) - public <= newer
    assert set(ONLINE_QUANTIZATION) >= set(ONLINE_QUANT_SHORTHAND_NAMES)


@pytest.mark.usefixtures("environment")
def test_every_argument_that_we_set_ourselves_is_refused(tmp_path: Path) -> None:
    model = ModelConfig(path=str(make_tiny_model(tmp_path, tied=True)), device=Device.cpu, dtype="bfloat16")
    ours = settings.engine_args(model, ActorConfig(), 0)
    stock = type(ours)(model=model.path)
    # a user may overrule these: they concern speed alone
    free = {"enforce_eager", "block_size"}
    names = {field.name for field in dataclasses.fields(ours)} - free
    changed = {name for name in names if getattr(ours, name) != getattr(stock, name)} | {"model"}
    assert {"logprobs_mode", "load_format"} <= changed
    taken: list[str] = []
    for name in changed:
        with contextlib.suppress(ConfigError):
            check({name: None})
            taken.append(name)
    assert taken == []


@pytest.mark.usefixtures("environment")
def test_arguments_reach_vllm_and_its_refusal_is_the_users_mistake(tmp_path: Path) -> None:
    model = ModelConfig(path=str(make_tiny_model(tmp_path, tied=True)), device=Device.cpu, dtype="bfloat16", max_context=64)
    config = settings.engine_config(model, ActorConfig(engine_args={"kv_cache_dtype": "fp8", "block_size": 64}), 0)
    assert config.cache_config.cache_dtype == "fp8"
    assert config.cache_config.block_size == 64
    # the head's logits are float32, as the learner's
    assert config.model_config.head_dtype == torch.float32
    assert str(config.scheduler_config.scheduler_cls).endswith("cpu.scheduler.CpuScheduler")
    with pytest.raises(ModelError, match="vLLM refuses") as caught:
        settings.engine_config(model, ActorConfig(engine_args={"max_num_batched_tokens": 1}), 0)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(("ahead", "name"), [(True, "GpuScheduler"), (False, "StepScheduler")])
def test_on_a_gpu_the_scheduler_follows_vllms_decision_to_work_ahead(ahead: bool, name: str) -> None:
    device = SimpleNamespace(device_type="cuda")
    config = SimpleNamespace(device_config=device, scheduler_config=SimpleNamespace(async_scheduling=ahead))
    assert settings._scheduler(cast("VllmConfig", config)).rpartition(".")[2] == name


def test_the_transformers_engine_takes_none() -> None:
    with pytest.raises(ConfigError, match=r"none with actor\.engine=transformers"):
        ActorConfig(engine=EngineKind.transformers, engine_args={"kv_cache_dtype": "fp8"})

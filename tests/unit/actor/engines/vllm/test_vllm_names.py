"""Every name, field and signature of vLLM that our sources use exists: in the vLLM for GPUs, and in the one that is installed.

Nothing is imported. The former's sources are those of its wheel, shortened: `make vllm-stubs` after a change of what we use.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from tests.support.vllm_sources import VllmSources
from tests.support.vllm_stubs import CPU_WORKER, GPU_WORKER, load_stubs, our_sources, pinned_version
from tests.support.vllm_uses import Uses

GPU_VLLM = VllmSources(load_stubs()["sources"].get)


def gpu_vllm() -> Uses:
    return Uses(GPU_VLLM, GPU_WORKER)


def test_the_vllm_for_gpus_has_everything_that_we_use() -> None:
    uses = gpu_vllm()
    uses.read(our_sources())
    hint = "if the wheel has it, the shortened copy lacks it: make vllm-stubs"
    assert not uses.problems, "\n".join([*uses.problems, hint])
    assert uses.num_checks > 150, "names, attributes and calls"


def test_the_installed_vllm_has_everything_that_we_use() -> None:
    found = importlib.util.find_spec("vllm")
    if found is None or found.origin is None:
        pytest.skip("no vLLM is installed")
    uses = Uses(VllmSources.of_folder(Path(found.origin).parents[1]), CPU_WORKER)
    uses.read(our_sources())
    assert not uses.problems, "\n".join(uses.problems)


def test_the_shortened_copy_is_of_the_pinned_wheel() -> None:
    stubs = load_stubs()
    assert stubs["wheel"].startswith(f"vllm-{pinned_version()}-"), "make vllm-stubs"
    assert len(stubs["sha256"]) == 64


def test_log_probabilities_come_as_four_lists() -> None:
    """`scheduler.py` takes them apart by position."""
    fields = gpu_vllm().vllm.signature("vllm.v1.outputs:LogprobsLists").fields
    assert fields.split(", ")[:3] == ["logprob_token_ids", "logprobs", "sampled_token_ranks"]
    assert len(fields.split(", ")) == 4


@pytest.mark.parametrize(
    ("name", "written", "planted", "problem"),
    [
        ("settings.py", '"max_model_len":', '"max_model_length":', "no parameters ['max_model_length']"),
        ("settings.py", "VLLM_NO_USAGE_STATS", "VLLM_NO_USAGE_STATISTICS", "vLLM reads no VLLM_NO_USAGE_STATISTICS"),
        ("settings.py", "WeightTransferConfig(backend=", "WeightTransferConfig(engine=", "no parameters ['engine']"),
        ("engine.py", "import AsyncLLM\n", "import AsyncLLMs as AsyncLLM\n", "vllm.v1.engine.async_llm has no AsyncLLMs"),
        ("engine.py", "max_tokens=ticket", "max_token=ticket", "no parameters ['max_token']"),
        ("engine.py", "_async(mode=", "_async(how=", "no parameters ['how']"),
        ("engine.py", "core.resume_scheduler_async", "core.resume_scheduler", "has no resume_scheduler"),
        ("engine.py", "output.finish_reason", "output.end_reason", "has no end_reason"),
        ("scheduler.py", "PauseState.UNPAUSED", "PauseState.RESUMED", "has no RESUMED"),
        ("scheduler.py", "_stock_check = stock.check_stop", "_stock_check = stock.check_stops", "has no check_stops"),
        ("scheduler.py", "self, request_ids: Any, finished", "self, ids: Any, finished", "FinalOnly.finish_requests takes"),
        ("worker.py", "def receive_weights", "def take_weights", "WeightLoader lacks ['receive_weights']"),
        ("worker.py", "self.vllm_config)", "self.vllm_configuration)", "vLLM's class has no vllm_configuration"),
        ("worker.py", "self.update_weights({})", "self.update_weight({})", "vLLM's class has no update_weight"),
    ],
    ids=lambda value: value if isinstance(value, str) and value.endswith(".py") else "",
)
def test_a_name_that_vllm_lacks_is_found(name: str, written: str, planted: str, problem: str) -> None:
    sources = our_sources()
    assert written in sources[name], "the sources have changed: plant the fault elsewhere"
    sources[name] = sources[name].replace(written, planted, 1)
    uses = gpu_vllm()
    uses.read(sources)
    assert any(problem in found for found in uses.problems), uses.problems

"""`prolong doctor --agreement` with real engines: nothing is wrong where they agree, and a planted difference is named."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

import pytest
import torch
from prolong.actor.engines.layer_outputs import EMBEDDING, FINAL, LOGITS, LayerOutputs
from prolong.bench.tiny_families import FAMILIES, make_family_model
from prolong.common.config.choices import Device, EngineKind
from prolong.common.config.sections import ActorConfig, Config, ModelConfig, SamplingConfig, ValidationConfig
from prolong.launch.agreement.pair import EnginePair, LayerWatch
from prolong.launch.agreement.probe import examine_agreement, examine_pair, stage_differences

from tests.support.engine_rig import PROMPT, Rig
from tests.support.runs import CLI
from tests.support.tiny_model import make_tiny_model

pytestmark = pytest.mark.timeout(600)
STAGES = [EMBEDDING, "layer 0", "layer 1", FINAL, LOGITS]
CONTEXT = 128


def pair_config(folder: Path) -> Config:
    """An engine that starts in a moment."""
    return Config(
        model=ModelConfig(path=str(folder), max_context=CONTEXT, device=Device.cpu, dtype="float32"),
        sampling=SamplingConfig(max_tokens=CONTEXT // 2),
        validation=ValidationConfig(max_tokens=CONTEXT // 2),
        actor=ActorConfig(engine=EngineKind.transformers),
    )


def test_the_command_finds_nothing_wrong_with_an_engine_that_agrees(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path, tied=False)
    settings = [f"model.path={folder}", f"model.max_context={CONTEXT}", "actor.engine=transformers"]
    settings += ["sampling.max_tokens=64", "validation.max_tokens=64"]
    command = [*CLI, "doctor", "--agreement", *settings]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert [line[:8] for line in lines if line.startswith(("ok", "FAIL"))] == ["ok    fi", "ok    af"]
    assert sum("differs by" in line for line in lines) == 2 * len(STAGES)
    assert "<-" not in done.stdout
    assert lines[-1] == f"engine and learner agree on {folder} in float32"


@pytest.mark.parametrize(("planted_at", "parameter", "stage"), [(0, "layers.1.mlp", "layer 1"), (1, "embed_tokens", EMBEDDING)])
def test_a_planted_difference_is_named_by_its_stage(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    planted_at: int,
    parameter: str,
    stage: str,
) -> None:
    """After one of the two updates the learner's weights move, as if the engine had not loaded a part of them."""
    publish, published = EnginePair.publish, []

    async def publish_and_move(pair: EnginePair) -> None:
        await publish(pair)
        published.append(pair)
        if len(published) == planted_at + 1:
            for name, tensor in pair.policy.named_parameters():
                if parameter in name:
                    tensor.add_(0.3 * tensor.std())

    monkeypatch.setattr(EnginePair, "publish", publish_and_move)
    assert examine_agreement(pair_config(make_tiny_model(tmp_path, tied=False))) == 2
    lines = capsys.readouterr().out.splitlines()
    named = [line.split("differs")[0].strip() for line in lines if "<- the first beyond rounding" in line]
    # a difference with the first weights is gone once those that moved were published
    assert named == [stage]
    when = "first in" if planted_at == 0 else "only after an update, first in"
    assert lines[-1].startswith(f"engine and learner compute different policies: {when} {stage}")


def test_a_buffer_that_checkpoints_hold_reaches_the_engine(tmp_path: Path) -> None:
    """The router of GLM-4-MoE has a correction bias, which is no parameter."""
    make_family_model(FAMILIES["glm4-moe"], tmp_path)
    examinations = asyncio.run(examine_pair(pair_config(tmp_path)))
    assert [found.error for found in examinations] == ["", ""]
    assert all(found.agrees("float32") for found in examinations)


def test_adapters_are_sent_and_moved_alone(tmp_path: Path) -> None:
    cfg = pair_config(make_tiny_model(tmp_path, tied=True))
    cfg.model.lora = {"rank": 2, "alpha": 3.0}
    examinations = asyncio.run(examine_pair(cfg))
    assert [found.error for found in examinations] == ["", ""]
    assert all(found.agrees("float32") for found in examinations)


def test_the_layers_that_an_engine_shows_are_those_of_the_model(any_rig: Rig) -> None:
    assert isinstance(any_rig.engine, LayerWatch)
    any_rig.model.load_state_dict(any_rig.versions[any_rig.version], strict=False)
    watch = LayerOutputs(any_rig.model, 2, 64)
    with torch.no_grad():
        any_rig.model(torch.tensor([PROMPT]))
    ours = {stage: value.numpy() for stage, value in watch.take().items()}
    theirs = any_rig.run(any_rig.engine.layer_outputs(any_rig.ticket(n=1, max_tokens=1)))
    assert list(ours) == STAGES
    assert max(stage_differences({stage: (theirs[stage], ours[stage]) for stage in STAGES}).values()) < 1e-4

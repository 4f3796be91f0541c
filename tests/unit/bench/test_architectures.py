"""The table of docs/architectures.md, without an engine."""

import math
from pathlib import Path

import pytest
import torch
from prolong.bench.architectures import BEGIN, END, FamilyRow, family_row, write_table
from prolong.bench.tiny_families import FAMILIES, VOCAB, make_family_model
from prolong.common.config.sections import ModelConfig
from prolong.common.models import load_model
from prolong.launch.agreement.probe import Apart, Examination
from transformers import AutoConfig

NEAR, FAR = Apart(1e-6, 1e-12, 1.0, 500), Apart(0.5, 0.2, 0.4, 500)


def test_a_row_is_replaced_and_the_others_stay_in_order(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n\n{BEGIN}\n\n{END}\nafter\n")
    write_table(page, [FamilyRow("qwen3", "trained", "1.000, 1e-06", "1.000, 1e-06"), FamilyRow("llama", "stops")])
    write_table(page, [FamilyRow("llama", "trained")])
    lines = page.read_text().splitlines()
    rows = [line for line in lines if line.startswith(("| llama", "| qwen3"))]
    assert [row.split("|")[1].strip() for row in rows] == ["llama", "qwen3"]
    assert [row.split("|")[6].strip() for row in rows] == ["trained", "trained"]
    assert (lines[0], lines[-1]) == ("before", "after")


def test_a_row_says_what_the_examinations_found() -> None:
    agreed = Examination("first weights", NEAR, {"layer 0": 1e-7})
    assert family_row("llama", [agreed, agreed]).verdict == "trained"
    later = family_row("llama", [agreed, Examination("after an update", FAR, {"embedding": 0.0, "layer 0": 0.3})])
    assert (later.verdict, later.stage) == ("stops at the first batch: they differ from layer 0 on", "layer 0")
    dead = family_row("llama", [Examination("first weights", error="the engine died\nof something | else")])
    assert dead.verdict == "stops: the engine died"


def test_there_are_families_of_every_kind() -> None:
    assert len({family.model_type for family in FAMILIES.values()}) >= 40
    for family in FAMILIES.values():
        AutoConfig.for_model(family.model_type, **family.config())


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt-oss"])
def test_a_tiny_model_is_complete_and_far_from_uniform_and_from_certain(tmp_path: Path, name: str) -> None:
    make_family_model(FAMILIES[name], tmp_path)
    model = load_model(ModelConfig(path=str(tmp_path)), dtype=torch.float32, attention="eager")
    assert sum(parameter.numel() for parameter in model.parameters()) < 1_000_000
    with torch.no_grad():
        distribution = torch.distributions.Categorical(logits=model(torch.arange(2, 42)[None]).logits[0])
    assert 0.1 < float(distribution.entropy().mean()) / math.log(VOCAB) < 0.9

"""The predicted memory of a rank is that which the learner's code allocates, within a tenth."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from prolong.bench.memory import BEGIN, END, MODELS, MemoryRow, write_memory_table
from prolong.common.json_object import JsonObject

from tests.support.forks import Fork
from tests.support.memory_ratios import print_ratios

CASES: list[tuple[str, int, JsonObject]] = [
    ("7B", 4, {"layers": 3, "recompute": "false"}),
    ("7B", 8, {"layers": 3, "recompute": "selective"}),
    ("7B", 1, {"layers": 2, "recompute": "true", "token_budget": 2048}),
]


@pytest.mark.slow
def test_the_prediction_is_within_a_tenth_of_what_the_learner_allocates(tmp_path: Path) -> None:
    tracking = Fork(print_ratios, CASES, log=tmp_path / "log").start()
    said = tracking.communicate(240)[1]
    assert tracking.returncode == 0, said[-3000:]
    ratios = [json.loads(line)["ratio"] for line in said.splitlines() if line.startswith('{"ratio"')]
    assert len(ratios) == len(CASES)
    assert all(0.9 <= ratio <= 1.1 for ratio in ratios), ratios


def test_the_table_of_the_page_is_replaced_between_its_marks(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    gib = 1 << 30
    row = MemoryRow(
        model="7B", gpus=4, layers=28, resident=30 * gib, predicted=40 * gib, tracked=39 * gib, peak=43 * gib,
        fits={80: "yes, 43", 141: "yes, 43"},
    )  # fmt: skip
    write_memory_table(page, [row])
    text = page.read_text()
    assert "| 7B | 4 | 30.0 | 40.0 | 39.0 | 1.03 | yes, 43 | yes, 43 |" in text
    assert "old" not in text
    assert text.startswith("before\n")
    assert text.endswith("after\n")


def test_the_shapes_have_the_sizes_of_their_names() -> None:
    from prolong.launch.plan.model_shape import ModelShape

    sizes = {name: round(ModelShape.of(config).parameters / 1e9, 1) for name, config in MODELS.items()}
    assert sizes == {"0.6B": 0.6, "1.5B": 1.8, "7B": 7.6, "14B": 14.8, "32B": 32.8}

"""The rows of the study of resets: one arm can be measured later than the others."""

from __future__ import annotations

import json
from pathlib import Path

from prolong.bench.prolonged import with_other_arms


def row(arm: str, seed: int, after: float) -> dict:
    return {"arm": arm, "seed": seed, "after": after}


def test_rows_of_other_arms_stay_and_those_of_measured_arms_are_replaced(tmp_path: Path) -> None:
    path = tmp_path / "prolonged-main.jsonl"
    assert with_other_arms("main", [row("ema", 0, 0.5)], path) == [row("ema", 0, 0.5)], "a first file"
    before = [row("no_kl", 0, 0.7), row("ema", 0, 0.1), row("never", 1, 0.4), row("never", 0, 0.3)]
    path.write_text("".join(json.dumps(each) + "\n" for each in before))
    rows = with_other_arms("main", [row("ema", 0, 0.5), row("ema", 1, 0.6)], path)
    assert rows == [row("never", 0, 0.3), row("ema", 0, 0.5), row("no_kl", 0, 0.7), row("never", 1, 0.4), row("ema", 1, 0.6)]

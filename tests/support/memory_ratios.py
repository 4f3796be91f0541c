"""Predicted against tracked memory in a process of its own (forks.py): torch's default group is that of the tracker."""

from __future__ import annotations

import json

from prolong.bench.memory import MODELS, compare_rank
from prolong.common.config.choices import Recompute
from prolong.common.json_object import JsonObject


def print_ratios(cases: list[tuple[str, int, JsonObject]]) -> None:
    """One line for each case: model, ranks, and what is changed in their settings."""
    for model, ranks, change in cases:
        layers, recompute = change.pop("layers"), Recompute[str(change.pop("recompute"))]
        row = compare_rank(model, MODELS[model] | {"num_hidden_layers": layers}, ranks, recompute=recompute, **change)
        print(json.dumps({"ratio": row.ratio}), flush=True)

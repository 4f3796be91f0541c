"""The single facts of a run: its state, scores before and after, ledger, counters, staleness and survival as a whole."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version

from ...common.config.run_files import RunPaths
from ...common.config.sections import Config
from ...common.config.stages import total_steps
from ...common.errors import ProlongError
from ...common.json_object import JsonObject
from ...common.metrics import MetricsRecord
from ...common.types import TicketState
from ..status import run_status
from .curves import SweepCurve

STALENESS = re.compile(r"policy/staleness_(\d+)")
DECILES = 10


def facts_of(
    paths: RunPaths, cfg: Config | None, records: Sequence[MetricsRecord], sweeps: Mapping[str, SweepCurve]
) -> JsonObject:
    """A JSON object of all of them. `cfg`: None for a folder without a config.yaml."""
    known = _status(paths)
    last = records[-1] if records else {}
    summary = known.get("summary", {})
    return {
        "name": paths.folder.resolve().name,
        "folder": str(paths.folder.resolve()),
        "state": known["state"],
        "step": int(last.get("step", known["version"])),
        "planned": total_steps(cfg) if cfg is not None else None,
        "wall_s": summary.get("wall_s", last.get("wall_s")),
        "written": _written(paths),
        "prolong": _own_version(),
        "model": cfg.model.path if cfg is not None else "",
        "eta": cfg.buffer.eta if cfg is not None else None,
        "totals": _totals(records),
        "scores": before_and_after(summary, sweeps),
        "ledger": known.get("ledger") or _ledger_of(last),
        "balanced": known.get("balanced"),
        "counters": known.get("counters") or summary.get("counters") or {},
        "staleness": staleness_of(records),
        "survival": _survival_of(records),
    }


def _status(paths: RunPaths) -> JsonObject:
    """What `prolong status` knows. A folder that was copied here may name a buffer that this host has no keys for."""
    try:
        return run_status(paths)
    except ProlongError:
        return {"state": "unknown", "version": 0}


def _written(paths: RunPaths) -> str:
    """When the last record was written, in UTC; empty without records."""
    if not paths.metrics.exists():
        return ""
    return datetime.fromtimestamp(paths.metrics.stat().st_mtime, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _own_version() -> str:
    try:
        return version("prolong")
    except PackageNotFoundError:
        return ""


def _totals(records: Sequence[MetricsRecord]) -> dict[str, float]:
    """Sums over all steps."""
    names = {
        "rollouts": "rollout/count",
        "tokens": "learner/tokens",
        "generated_rollouts": "actor/generated_rollouts",
        "generated_tokens": "actor/generated_tokens",
        "weight_updates": "actor/weight_updates",
    }
    return {name: sum(record.get(metric) or 0.0 for record in records) for name, metric in names.items()}


def before_and_after(summary: JsonObject, sweeps: Mapping[str, SweepCurve]) -> JsonObject:
    """Setting -> [before, after], each with version, mean and scores by task: of the summary, or the first and last sweep.

    Of a single sweep, there is nothing after it: None.
    """
    if summary:
        sides = [summary.get("before", {}), summary.get("after", {})]
        return {setting: [side.get(setting) for side in sides] for setting in dict.fromkeys([*sides[0], *sides[1]])}
    return {
        setting: [_scores_at(curve, 0), _scores_at(curve, -1) if len(curve.versions) > 1 else None]
        for setting, curve in sweeps.items()
    }


def _scores_at(curve: SweepCurve, place: int) -> JsonObject:
    row = {name: values[place] for name, values in curve.names.items()}
    by_task = {name: value for name, value in row.items() if "/" in name and value is not None}
    return {"version": curve.versions[place], "mean": row.get("mean"), "by_task": by_task}


def _ledger_of(record: MetricsRecord) -> dict[str, int]:
    names = [*(state.value for state in TicketState), "total"]
    return {name: int(value) for name in names if (value := record.get(f"buffer/ledger_{name}")) is not None}


def staleness_of(records: Sequence[MetricsRecord]) -> list[list[float]]:
    """(staleness, share of all trained tokens that had it), ascending."""
    tokens: dict[int, float] = {}
    for record in records:
        weight = record.get("learner/tokens") or 0.0
        for name, share in record.items():
            if (found := STALENESS.fullmatch(name)) and share:
                age = int(found[1])
                tokens[age] = tokens.get(age, 0.0) + share * weight
    total = sum(tokens.values())
    return [[age, tokens[age] / total] for age in sorted(tokens)] if total else []


def _survival_of(records: Sequence[MetricsRecord]) -> list[float]:
    """The newest survival by decile of length, shortest first; empty where no record has it."""
    names = [f"buffer/survival_d{k}" for k in range(DECILES)]
    for record in reversed(records):
        if all(record.get(name) is not None for name in names):
            return [record[name] for name in names]
    return []

"""The endpoints of a run's processes, as a scraper finds and reads them."""

from __future__ import annotations

import json
import re
import urllib.request
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).resolve().parents[2]


def targets_of(folder: Path) -> dict[str, str]:
    """Process -> HOST:PORT, from the notes in a run folder."""
    notes = {path.stem: json.loads(path.read_text()) for path in (folder / "endpoints").glob("*.json")}
    return {name: note[0]["targets"][0] for name, note in notes.items()}


def fetch(target: str, path: str) -> str:
    with urllib.request.urlopen(f"http://{target}/{path}", timeout=20) as answer:
        return answer.read().decode()


def metric_names(page: str) -> set[str]:
    """The names of the metrics of a page, with the _total of counters."""
    return {sample.name for family in text_string_to_metric_families(page) for sample in family.samples}


def number_of(name: str, page: str) -> float:
    """The sum of all numbers of that name, 0 without any."""
    families = text_string_to_metric_families(page)
    return sum(sample.value for family in families for sample in family.samples if sample.name == name)


def dashboard_names() -> set[str]:
    """The metrics that docs/grafana.json asks for."""
    panels = json.loads((ROOT / "docs" / "grafana.json").read_text())["panels"]
    queries = [target["expr"] for panel in panels for target in panel.get("targets", [])]
    return {name for query in queries for name in re.findall(r"\bprolong_\w+", query)}

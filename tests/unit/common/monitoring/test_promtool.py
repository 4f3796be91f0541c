"""Prometheus' own checker on our pages and on the queries of the dashboard. Skipped where promtool is not installed."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from prolong.actor.stats import ActorStats
from prolong.actor.vitals import actor_metrics
from prolong.common.monitoring.exposition import exposition, step_metric
from prolong.common.monitoring.vitals import Vitals

from tests.support.endpoints import ROOT

pytestmark = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (Debian's prometheus) is not installed")


def promtool(*args: str, page: str = "") -> str:
    done = subprocess.run(["promtool", *args], input=page, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_our_pages_follow_prometheus_rules_for_names() -> None:
    vitals = Vitals("actor", "actor-0", "mine")
    names = ("learner/wait_s", "reward/mean", "reward/math/sum", "perf/tokens_per_s_per_gpu", "perf/memory_peak_bytes")
    vitals.publish([*actor_metrics(ActorStats(0.5).snapshot(), 64), *(step_metric(name, 1.0) for name in names)])
    assert promtool("check", "metrics", page=exposition(vitals.metrics(), {"run": "mine"})) == ""


def test_every_query_of_the_dashboard_is_one_that_prometheus_understands(tmp_path: Path) -> None:
    panels = json.loads((ROOT / "docs" / "grafana.json").read_text())["panels"]
    queries = [target["expr"] for panel in panels for target in panel.get("targets", [])]
    filled = [query.replace("$run", ".*").replace("$__rate_interval", "1m") for query in queries]
    rules = [{"record": f"query:{index}", "expr": query} for index, query in enumerate(filled)]
    (tmp_path / "rules.yml").write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    assert f"{len(queries)} rules found" in promtool("check", "rules", str(tmp_path / "rules.yml"))

"""Writes docs/grafana.json, the dashboard of a run's endpoints: `make docs`. Tests compare it with this, and with a real run.

Grafana: Dashboards, New, Import, upload the file, choose the Prometheus that scrapes the run.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from prolong.common.monitoring.exposition import PREFIX, step_metric

PAGE = Path(__file__).resolve().parent / "grafana.json"
WIDTH, HEIGHT = 24, 8  # of the grid, and of a panel
RUN = 'run=~"$run"'
SOURCE = {"type": "prometheus", "uid": "${source}"}


class Curve(NamedTuple):
    """A query, and what its lines are called."""

    query: str
    legend: str = ""


class Panel(NamedTuple):
    """A picture of curves, and what to read from it."""

    title: str
    about: str
    unit: str  # as Grafana calls it
    curves: tuple[Curve, ...]
    stacked: bool = False
    kind: str = "timeseries"
    width: int = 12


def step(name: str, more: str = "") -> str:
    """A number of the learner's last step, by its name in metrics.jsonl."""
    return f"{step_metric(name, 0.0).full_name}{{{RUN}{more}}}"


def own(name: str, more: str = "") -> str:
    """A number that a process tells of itself."""
    return f"{PREFIX}_{name}{{{RUN}{more}}}"


def rate(name: str, more: str = "") -> str:
    """Growth of a counter per second."""
    return f"rate({own(f'{name}_total', more)}[$__rate_interval])"


def actors(name: str) -> str:
    """Share of the actors' time."""
    num_actors = own("actor_room", ',role="actor"')
    return f"sum({rate(f'actor_{name}')}) / count({num_actors})"


lost = own("buffer_tickets", ',state=~"filtered|stale|failed"')
PANELS: dict[str, tuple[Panel, ...]] = {
    "How it goes": (
        Panel(
            "Stuck or not ready",
            "/healthz and /readyz of each process say why",
            "none",
            (
                Curve(f"sum({own('up')} == bool 0)", "stuck"),
                Curve(f"sum({own('ready')} == bool 0)", "not ready"),
            ),
            kind="stat",
            width=6,
        ),
        Panel(
            "Policy version",
            "of the learner, of so many steps at most",
            "none",
            (
                Curve(own("buffer_version"), "version"),
                Curve(own("buffer_steps"), "of"),
            ),
            kind="stat",
            width=6,
        ),
        Panel("Steps per minute", "of the learner", "none", (Curve(f"60 * {rate('learner_steps')}", "steps"),), width=12),
        Panel(
            "Reward",
            "of the training rollouts, by domain",
            "percentunit",
            (
                Curve(step("reward/mean"), "mean"),
                Curve(step("reward/any"), "{{domain}}"),
            ),
        ),
        Panel(
            "Held-out score",
            "of the last sweep; it names its setting",
            "percentunit",
            (Curve(step("validation/s/mean"), "{{setting}}"),),
        ),
    ),
    "Where the time goes": (
        Panel(
            "Learner's time",
            "waiting: actors or the bound on staleness hold it up; computing: it is the roof",
            "percentunit",
            (Curve(rate("learner_seconds", ',activity=~"wait|compute|publish|checkpoint"'), "{{activity}}"),),
            stacked=True,
        ),
        Panel(
            "Actors' time",
            "mean over actors; idle: no tickets, so the learner or eta holds them up",
            "percentunit",
            (
                Curve(actors("busy_seconds"), "generate"),
                Curve(actors("weights_seconds"), "take weights"),
                Curve(f"{actors('idle_seconds')} - {actors('verify_exposed_seconds')}", "idle"),
                Curve(actors("verify_exposed_seconds"), "wait for verdicts alone"),
            ),
            stacked=True,
        ),
        Panel(
            "Tokens per second",
            "sampled by each actor, and trained",
            "none",
            (
                Curve(rate("actor_engine_tokens"), "{{process}}"),
                Curve(rate("learner_tokens"), "trained"),
            ),
        ),
        Panel(
            "Rollouts",
            "in each actor's hands, and that its engine has use for",
            "none",
            (
                Curve(own("buffer_actor_rollouts"), "{{actor}}"),
                Curve(own("buffer_actor_room"), "{{actor}}: room"),
            ),
        ),
        Panel(
            "Weights",
            "versions that actors are behind, and the time of a broadcast",
            "none",
            (
                Curve(f"max({own('buffer_actor_lag')})", "furthest behind"),
                Curve(step("weights/publish_s"), "broadcast, s"),
            ),
        ),
        Panel(
            "CPU cores",
            "used by each process",
            "none",
            (
                Curve(rate("actor_cpu_seconds"), "{{process}}"),
                Curve(rate("learner_seconds", ',activity="cpu"'), "learner"),
            ),
        ),
    ),
    "The data": (
        Panel(
            "Tickets under way",
            "by state",
            "none",
            (Curve(own("buffer_tickets", ',state=~"issued|leased|stored|batched"'), "{{state}}"),),
            stacked=True,
        ),
        Panel(
            "Tickets lost or left out, per minute",
            "filtered: all rewards of a group were equal",
            "none",
            (Curve(f"60 * deriv({lost}[5m])", "{{state}}"),),
        ),
        Panel(
            "Staleness",
            "versions, of the groups of a batch, and its bound",
            "none",
            (
                Curve(step("buffer/staleness_mean"), "mean"),
                Curve(step("buffer/staleness_max"), "largest"),
                Curve(own("buffer_eta"), "eta"),
            ),
        ),
        Panel(
            "Completion lengths",
            "tokens",
            "none",
            (
                Curve(step("rollout/tokens_mean"), "mean"),
                Curve(step("rollout/tokens_max"), "longest"),
            ),
        ),
    ),
    "The training": (
        Panel(
            "Entropy", "nats per token; a steady fall to 0 is a collapse", "none", (Curve(step("learner/entropy"), "entropy"),)
        ),
        Panel(
            "KL to the reference",
            "nats per token; a reset sets it to 0",
            "none",
            (
                Curve(step("reference/kl"), "KL"),
                Curve(step("reference/epoch"), "resets"),
            ),
        ),
        Panel(
            "Effective sample size", "near 1: the data is as good as fresh", "percentunit", (Curve(step("policy/ess"), "ess"),)
        ),
        Panel(
            "Gradient norm and clipped share",
            "before clipping; tokens whose ratio is out of bounds",
            "none",
            (
                Curve(step("learner/grad_norm"), "norm"),
                Curve(step("policy/clip_high"), "clipped high"),
                Curve(step("policy/clip_low"), "clipped low"),
            ),
        ),
        Panel(
            "Agreement of engine and learner",
            "mean difference of log-probabilities of the same tokens",
            "none",
            (Curve(step("agreement/logprob_gap"), "nats"),),
        ),
        Panel(
            "Verdicts without a reward",
            "per second; they are dropped and counted",
            "none",
            (Curve(rate("actor_none_verdicts"), "{{process}}"),),
        ),
    ),
}


def dashboard() -> dict[str, Any]:
    """The dashboard, as Grafana imports it."""
    panels: list[dict[str, Any]] = []
    top = 0
    for row, members in PANELS.items():
        panels.append({"id": len(panels) + 1, "type": "row", "title": row, "gridPos": {"x": 0, "y": top, "w": WIDTH, "h": 1}})
        top, left = top + 1, 0
        for panel in members:
            if left + panel.width > WIDTH:
                top, left = top + HEIGHT, 0
            panels.append(drawn(panel, len(panels) + 1, {"x": left, "y": top, "w": panel.width, "h": HEIGHT}))
            left += panel.width
        top += HEIGHT
    variables = [
        {"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus"},
        {
            "name": "run",
            "label": "Run",
            "type": "query",
            "datasource": SOURCE,
            "query": f"label_values({PREFIX}_up, run)",
            "refresh": 2,
            "includeAll": True,
            "multi": True,
        },
    ]
    return {
        "uid": "prolong-run",
        "title": "prolong: a run",
        "schemaVersion": 39,
        "timezone": "browser",
        "refresh": "15s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": variables},
        "panels": panels,
    }


def drawn(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    """One panel of Grafana."""
    targets = [
        {"refId": chr(ord("A") + index), "datasource": SOURCE, "expr": curve.query, "legendFormat": curve.legend or "__auto"}
        for index, curve in enumerate(panel.curves)
    ]
    custom = {"stacking": {"mode": "normal" if panel.stacked else "none"}, "fillOpacity": 40 if panel.stacked else 0}
    defaults: dict[str, Any] = {"unit": panel.unit} | ({"custom": custom} if panel.kind == "timeseries" else {})
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.about,
        "datasource": SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "targets": targets,
    }


def text() -> str:
    """The content of docs/grafana.json."""
    return json.dumps(dashboard(), indent=1) + "\n"


if __name__ == "__main__":
    PAGE.write_text(text())

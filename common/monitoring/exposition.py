"""Numbers as Prometheus reads them: names with their units written out, labels for what our names carry behind a slash.

    learner/wait_s                 prolong_step_learner_wait_seconds
    reward/math/sum                prolong_step_reward_task{domain="math",task="sum"}
    perf/actor_tokens_per_s/far-1  prolong_step_perf_actor_tokens_per_second_by_actor{actor="far-1"}

Source: https://prometheus.io/docs/instrumenting/exposition_formats/ (text format 0.0.4)
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PREFIX = "prolong"


class MetricKind(Enum):
    """The type of a metric."""

    gauge = "gauge"
    counter = "counter"  # it only grows while the process lives; its name ends in _total


@dataclass(frozen=True, slots=True)
class Metric:
    """One number. Example: Metric("buffer_tickets", 12.0, labels={"state": "stored"}, about="tickets by state")"""

    name: str  # without the prefix; of a counter, without _total
    value: float
    kind: MetricKind = MetricKind.gauge
    labels: Mapping[str, str] = field(default_factory=dict)
    about: str = ""  # one line for a reader of the metrics page

    @property
    def full_name(self) -> str:
        return f"{PREFIX}_{self.name}" + ("_total" if self.kind is MetricKind.counter else "")


def exposition(metrics: Iterable[Metric], common: Mapping[str, str]) -> str:
    """All metrics as a metrics page; `common` are labels of every one. A number under the same name and labels comes once."""
    families: dict[str, dict[str, str]] = {}
    heads: dict[str, str] = {}
    for metric in metrics:
        name = metric.full_name
        about = f"# HELP {name} {_escaped(metric.about, quotes=False)}\n" if metric.about else ""
        heads.setdefault(name, f"{about}# TYPE {name} {metric.kind.value}\n")
        labels = ",".join(f'{key}="{_escaped(text)}"' for key, text in {**common, **metric.labels}.items())
        families.setdefault(name, {})[labels] = f"{name}{{{labels}}} {_number(metric.value)}\n"
    return "".join(heads[name] + "".join(lines.values()) for name, lines in families.items())


@lru_cache(4096)
def unit_name(name: str) -> str:
    """A name of ours in Prometheus' letters, with seconds written out. Example: "perf/tokens_per_s": perf_tokens_per_second."""
    plain = re.sub(r"[^a-zA-Z0-9_]", "_", name)
    return re.sub(r"(?<=_)s(?=_|$)", "seconds", re.sub(r"per_s(?=_|$)", "per_second", plain))


# names whose parts behind a slash are labels: (what the name begins with, the name of ours, its labels), the longest first
_LABELLED: tuple[tuple[re.Pattern[str], str, tuple[str, ...]], ...] = (
    (re.compile(r"reward/(?!mean$)([^/]+)/(.+)"), "reward_task", ("domain", "task")),
    (re.compile(r"reward/(?!mean$)([^/]+)"), "reward_domain", ("domain",)),
    (re.compile(r"validation/([^/]+)/mean"), "validation_mean", ("setting",)),
    (re.compile(r"validation/([^/]+)/version"), "validation_version", ("setting",)),
    (re.compile(r"validation/([^/]+)/oldest_version"), "validation_oldest_version", ("setting",)),
    (re.compile(r"validation/([^/]+)/([^/]+)/(.+)"), "validation_task", ("setting", "domain", "task")),
    (re.compile(r"validation/([^/]+)/([^/]+)"), "validation_domain", ("setting", "domain")),
    (re.compile(r"policy/staleness_(\d+)"), "policy_staleness_share", ("versions",)),
)
_BY_MEMBER = re.compile(r"(perf/(actor|pool)_[^/]+)/(.+)")


def step_metric(name: str, value: float) -> Metric:
    """A number of a learner step's record, as a gauge that says what the last step was like."""
    about = f"{name} of the last learner step; docs/metrics.md"
    for pattern, plain, labels in _LABELLED:
        if (found := pattern.fullmatch(name)) is not None:
            group = name.partition("/")[0]
            return Metric(
                f"step_{plain}",
                value,
                labels=dict(zip(labels, found.groups(), strict=True)),
                about=f"{group}/... of the last learner step that had it; docs/metrics.md",
            )
    if (found := _BY_MEMBER.fullmatch(name)) is not None:
        key, kind, member = found.groups()
        return Metric(f"step_{unit_name(key)}_by_{kind}", value, labels={kind: member}, about=f"{key}/...; docs/metrics.md")
    return Metric(f"step_{unit_name(name)}", value, about=about)


def _number(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return repr(int(value)) if float(value).is_integer() and abs(value) < 2**53 else repr(float(value))


def _escaped(text: str, *, quotes: bool = True) -> str:
    text = text.replace("\\", r"\\").replace("\n", r"\n")
    return text.replace('"', r"\"") if quotes else text

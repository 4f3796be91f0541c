"""What it costs a run to be watched: a span of the trace, the numbers that the loops publish, a scrape.

Times are CPU microseconds of the thread that does the work, on one core, without a run around it. The buffer's status and
numbers are those of `--actors` actors (it tells of 200 at most); it publishes them once a second, and answers an observer when
asked.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import monotonic, thread_time

from ..actor.vitals import actor_metrics
from ..buffer.serving.vitals import buffer_metrics
from ..common.monitoring.exposition import exposition, step_metric
from ..common.trace import Tracer
from .heartbeats import STATS, Alone
from .measure import report

ROUNDS = 5
SPANS = 5_000
LABELS = {"run": "bench", "role": "buffer", "process": "buffer"}
# a step's record has about as many numbers
RECORD = {f"group_{index // 10}/number_{index}_s": 0.123456789 * index for index in range(150)}


def cpu_us(call: Callable[[], object], times: int) -> float:
    """CPU microseconds of one call, the median of some rounds."""
    found: list[float] = []
    for _ in range(ROUNDS):
        started = thread_time()
        for _ in range(times):
            call()
        found.append((thread_time() - started) / times * 1e6)
    return median(found)


def span_costs(folder: Path) -> dict[str, float]:
    """Of a group's span with the ends and verdicts of 16 rollouts, and of one without anything."""
    tracer, now = Tracer(folder, "actor", "bench"), monotonic()
    facts = {"ordinal": 123456, "version": 789, "kind": "train", "task": "math/addition", "tokens": 5120, "reward": 0.4375}
    seconds = [0.123456 * index for index in range(16)]
    costs = {
        "span_of_a_group_us": cpu_us(lambda: tracer.add("group", now, now, **facts, ended=seconds, judged=seconds), SPANS),
        "span_us": cpu_us(lambda: tracer.add("learner/wait", now, now), SPANS),
    }
    before = sum(path.stat().st_size for path in folder.iterdir())
    tracer.close()
    return costs | {"folder_mb": before / 1e6}


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="prolong bench watching", description=__doc__)
    parser.add_argument("--actors", type=int, default=200)
    parser.add_argument("--json", action="store_true", help="one JSON object on one line")
    args = parser.parse_args(argv)
    alone = Alone(args.actors)
    alone.measure()
    status = alone.core.status(alone.now)
    with tempfile.TemporaryDirectory() as folder:
        result: dict[str, float] = {"actors": float(args.actors), **span_costs(Path(folder))}
    metrics = list(buffer_metrics(status))
    result |= {
        "status_us": cpu_us(lambda: alone.core.status(alone.now), 20),
        "buffer_numbers_us": cpu_us(lambda: list(buffer_metrics(status)), 20),
        "actor_numbers_us": cpu_us(lambda: list(actor_metrics(STATS, 64)), 200),
        "learner_numbers_us": cpu_us(lambda: [step_metric(name, value) for name, value in RECORD.items()], 20),
        "scrape_us": cpu_us(lambda: exposition(metrics, LABELS), 20),
        "scrape_bytes": float(len(exposition(metrics, LABELS))),
    }
    report(result, as_json=args.json)
    return 0

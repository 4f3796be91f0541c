"""How long a live weight update takes on a model of the demo's shape: from the order to the acknowledgement, and paused.

Idle: nothing is generated. Loaded: 256 rollouts are in flight, and go on afterwards. The learner's end is a thread on the first
core; the actor has the last one.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from time import perf_counter

import torch

from ..actor.engines.api import Engine
from ..common.config.choices import EngineKind
from .engines import Sender, generate_forever, random_weights, start_engine

IN_FLIGHT, N, MAX_TOKENS = 256, 16, 48
EVERY_S = 0.3  # between two updates under load


async def measure_updates(engine: Engine, sender: Sender, first: int, updates: int, wait_s: float) -> dict[str, float]:
    """Milliseconds of `updates` updates: total and paused."""
    totals, pauses = [], []
    for version in range(first, first + updates):
        start, paused = perf_counter(), engine.paused_s
        await sender.push(engine, version)
        totals.append(1e3 * (perf_counter() - start))
        pauses.append(1e3 * (engine.paused_s - paused))
        await asyncio.sleep(wait_s)
    slowest = sorted(totals)[int(0.9 * len(totals))]
    return {"median_ms": statistics.median(totals), "p90_ms": slowest, "paused_ms": statistics.median(pauses)}


async def run(kind: EngineKind, updates: int, clear_kv: bool) -> dict[str, object]:
    """Start the engine and measure."""
    cores = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        os.sched_setaffinity(0, {cores[-1]})
        engine = await start_engine(Path(folder), kind, clear_kv=clear_kv)
        sender = Sender(random_weights(Path(folder), "float32"), cores[0])
        await sender.push(engine, 0)
        idle = await measure_updates(engine, sender, 1, updates, 0.0)
        load = asyncio.create_task(generate_forever(engine, IN_FLIGHT, N, MAX_TOKENS))
        await asyncio.sleep(3 * EVERY_S)
        loaded = await measure_updates(engine, sender, 1 + updates, updates, EVERY_S)
        load.cancel()
        await asyncio.wait({load})
        await engine.close()
    return {"parameters": sum(tensor.numel() for tensor in sender.weights.values()), "idle": idle, "loaded": loaded}


def main(argv: list[str] | None = None) -> int:
    """Print one JSON line."""
    parser = argparse.ArgumentParser(prog="prolong bench weight-update", description=__doc__)
    parser.add_argument("--engine", choices=[kind.name for kind in EngineKind], default=EngineKind.vllm.name)
    parser.add_argument("--updates", type=int, default=30)
    parser.add_argument("--keep-kv", action="store_true", help="actor.clear_kv=false")
    parser.add_argument("--json", action="store_true", help="accepted for uniformity: the output is always JSON")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    result = asyncio.run(run(EngineKind[args.engine], args.updates, not args.keep_kv))
    sys.stdout.write(json.dumps(result) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

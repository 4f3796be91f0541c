"""Start-up seconds and tokens per second of the engines on one core, compared with stock vLLM.

    vllm          VllmEngine: AsyncLLM in two processes, our scheduler and CPU sampler
    transformers  TransformersEngine: a thread of this process
    stock         AsyncLLM in two processes, nothing of ours
    stock_mp      AsyncLLM as vLLM starts it on a CPU: three processes
    in_process    LLMEngine, one process: weights could not be updated while it generates, but nothing crosses a socket

All rollouts have the same length; 256 are in flight, 16 a ticket. Layouts are interleaved, each in a process of its own.
On a busy machine, CPU microseconds per token are the better figure. `start_s` begins after torch and transformers are imported
and ends when the engine has its first weights (stock layouts: when it is built).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

import psutil
import torch

from ..common.config.choices import EngineKind
from .engines import MAX_CONTEXT, Sender, make_ticket, random_weights, start_engine
from .learner_step import make_demo_shaped_model

OURS = tuple(kind.name for kind in EngineKind)
LAYOUTS = (*OURS, "stock", "stock_mp", "in_process")
IN_FLIGHT, N, MAX_TOKENS = 256, 16, 48

Speed = tuple[float, float]  # tokens per second, CPU microseconds per token
Rounds = tuple[float, list[Speed]]  # start-up seconds, then every round


async def ours(kind: EngineKind, folder: Path, tickets: int) -> Rounds:
    start = perf_counter()
    engine = await start_engine(folder, kind)
    await Sender(random_weights(folder, "float32"), None).push(engine, 0)
    start_s = perf_counter() - start

    async def work(ordinal: int) -> int:
        return sum([completion.num_tokens async for _, completion in engine.generate(make_ticket(ordinal, N, MAX_TOKENS))])

    speeds = [await _speed(work, round_ * tickets, tickets) for round_ in range(3)]
    await engine.close()
    return start_s, speeds


async def stock(folder: Path, tickets: int) -> Rounds:
    start = perf_counter()
    from vllm.v1.engine.async_llm import AsyncLLM

    llm = AsyncLLM.from_engine_args(_stock_args(folder))
    start_s = perf_counter() - start

    async def work(ordinal: int) -> int:
        async for output in llm.generate(_prompt(ordinal), _params(ordinal), str(ordinal)):
            if output.finished:
                return sum(len(completion.token_ids) for completion in output.outputs)
        raise RuntimeError(f"ticket {ordinal} ended without its final output")

    speeds = [await _speed(work, round_ * tickets, tickets) for round_ in range(3)]
    llm.shutdown()
    return start_s, speeds


def in_process(folder: Path, tickets: int) -> Rounds:
    begun = perf_counter()
    from vllm.v1.engine.llm_engine import LLMEngine

    llm = LLMEngine.from_engine_args(_stock_args(folder))
    start_s = perf_counter() - begun
    speeds = []
    for round_ in range(3):
        waiting, live, tokens = list(range(round_ * tickets, (round_ + 1) * tickets)), 0, 0
        start, cpu = perf_counter(), _cpu_s()
        while waiting or live:
            while waiting and live < IN_FLIGHT // N:
                ordinal = waiting.pop()
                llm.add_request(str(ordinal), _prompt(ordinal), _params(ordinal))
                live += 1
            for output in llm.step():
                live -= output.finished
                tokens += sum(len(completion.token_ids) for completion in output.outputs)  # type: ignore[union-attr]
        speeds.append((tokens / (perf_counter() - start), 1e6 * (_cpu_s() - cpu) / tokens))
    return start_s, speeds


async def _speed(work: Any, first: int, tickets: int) -> Speed:
    """The speed over `tickets` tickets, IN_FLIGHT / N at a time."""
    ordinals, total, start, cpu = iter(range(first, first + tickets)), 0, perf_counter(), _cpu_s()

    async def worker() -> None:
        nonlocal total
        for ordinal in ordinals:
            tokens = await work(ordinal)
            total += tokens

    await asyncio.gather(*(worker() for _ in range(IN_FLIGHT // N)))
    return total / (perf_counter() - start), 1e6 * (_cpu_s() - cpu) / total


def _cpu_s() -> float:
    """Of this process and its living descendants."""
    me = psutil.Process()
    times = [process.cpu_times() for process in [me, *me.children(recursive=True)]]
    return sum(time.user + time.system for time in times)


def _stock_args(folder: Path) -> Any:
    from vllm.engine.arg_utils import AsyncEngineArgs

    os.environ.update(TORCHDYNAMO_DISABLE="1", VLLM_CPU_OMP_THREADS_BIND="nobind", VLLM_LOGGING_LEVEL="ERROR")
    return AsyncEngineArgs(
        model=make_demo_shaped_model(folder),
        max_model_len=MAX_CONTEXT,
        max_num_seqs=IN_FLIGHT,
        load_format="dummy",
        skip_tokenizer_init=True,
        logprobs_mode="processed_logprobs",
        enforce_eager=True,
        disable_log_stats=True,
        kv_cache_memory_bytes=1 << 30,
        # a prompt prefilled in pieces kills a seeded engine on a CPU (actor/engines/vllm/cpu/kernels.py)
        max_num_batched_tokens=1 << 13,
        distributed_executor_backend="mp" if os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] == "1" else "uni",
    )


def _prompt(ordinal: int) -> Any:
    ticket = make_ticket(ordinal, N, MAX_TOKENS)
    return {"prompt_token_ids": list(memoryview(ticket.prompt.token_ids).cast("i"))}


def _params(ordinal: int) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    final = RequestOutputKind.FINAL_ONLY
    return SamplingParams(n=N, max_tokens=MAX_TOKENS, seed=ordinal, logprobs=0, detokenize=False, output_kind=final)


def measure_layout(layout: str, tickets: int) -> tuple[float, float, float]:
    """In this process: start-up seconds, and the better speed of two rounds after one that warms up."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        if layout in OURS:
            start_s, speeds = asyncio.run(ours(EngineKind[layout], Path(folder), tickets))
        elif layout == "in_process":
            start_s, speeds = in_process(Path(folder), tickets)
        else:
            start_s, speeds = asyncio.run(stock(Path(folder), tickets))
    return start_s, max(speed for speed, _ in speeds[1:]), min(cost for _, cost in speeds[1:])


def measure_elsewhere(layout: str, tickets: int) -> tuple[float, float, float]:
    """`measure_layout` in a fresh process."""
    environment = {"OMP_NUM_THREADS": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "1" if layout == "stock_mp" else "0"}
    command = [sys.executable, "-m", __spec__.name if __spec__ else __name__, "--here", layout, "--tickets", str(tickets)]
    done = subprocess.run(command, env={**os.environ, **environment}, stdout=subprocess.PIPE, check=True, timeout=600)
    start_s, speed, cost = json.loads(done.stdout.splitlines()[-1])
    return start_s, speed, cost


def main(argv: list[str] | None = None) -> int:
    """Print one JSON line."""
    parser = argparse.ArgumentParser(
        prog="prolong bench actor-engine", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tickets", type=int, default=64, help="per measurement")
    parser.add_argument("--layouts", nargs="+", choices=LAYOUTS, default=list(LAYOUTS))
    parser.add_argument("--here", choices=LAYOUTS, help="measure one layout in this process")
    parser.add_argument("--json", action="store_true", help="accepted for uniformity: the output is always JSON")
    args = parser.parse_args(argv)
    if args.here:
        sys.stdout.write(json.dumps(measure_layout(args.here, args.tickets)) + "\n")
        return 0
    measured: dict[str, list[tuple[float, float, float]]] = {layout: [] for layout in args.layouts}
    for _ in range(args.rounds):
        for layout in args.layouts:
            measured[layout].append(measure_elsewhere(layout, args.tickets))
    result = {
        "start_s": {layout: statistics.median(start_s for start_s, _, _ in rounds) for layout, rounds in measured.items()},
        "tokens_per_s": {layout: statistics.median(speed for _, speed, _ in rounds) for layout, rounds in measured.items()},
        "cpu_us_per_token": {layout: statistics.median(cost for _, _, cost in rounds) for layout, rounds in measured.items()},
        "rounds": measured,
    }
    sys.stdout.write(json.dumps(result) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

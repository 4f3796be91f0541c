"""Speed of the `math` verifier: easy answers through a pool of one worker, hard ones against math-verify's own speed.

easy: numbers, equal or not, decided without algebra; verdicts per second of wall time, and per second of the worker's CPU.
remote_easy: the same through a `prolong verifier` with one worker on this machine.
hard: the golden pairs that need algebra, judged in this process by `score` and by math-verify's parse and verify, in turn
(A B A B), caches cleared before each round; the figure is the median of the paired ratios (above 1: ours is faster).
The golden pairs are in a checkout only (see `prolong bench golden`).
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import logging
import statistics
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from time import perf_counter

import psutil
import zmq.asyncio

from ..common.types import FinishReason, Prompt, Verdict
from ..verifiers.answers.algebra import load_algebra, parsed
from ..verifiers.api import Task
from ..verifiers.math import MATH
from ..verifiers.workers.host_messages import Judge
from ..verifiers.workers.local_pool import LocalPool
from ..verifiers.workers.remote import RemoteHost
from .golden import Pair, math_verify_given_box, read_pairs
from .measure import median_ratio, report

EASY = (("932", "932", 1.0), ("932", "931", 0.0), ("\\frac{3}{4}", "0.75", 1.0), ("12\\text{ cm}", "12", 1.0), ("-7", "7", 0.0))


def prompt(answer: str) -> Prompt:
    return Prompt(
        uid="u", domain="math", task="t", text="?", token_ids=b"", verifier="math", answer=json.dumps({"answer": answer})
    )


async def judged_in_waves(ask: Callable[[Prompt, str], Awaitable[Verdict]], count: int) -> float:
    """Seconds that `count` easy verdicts take, asked in waves of 256. Raises RuntimeError for a wrong one."""
    began = perf_counter()
    for start in range(0, count, 256):
        cases = [EASY[i % len(EASY)] for i in range(start, min(start + 256, count))]
        asked = [ask(prompt(reference), f"<think>hm</think>\\boxed{{{answer}}}") for reference, answer, _ in cases]
        rewards = [verdict.reward for verdict in await asyncio.gather(*asked)]
        if rewards != [reward for _, _, reward in cases]:
            raise RuntimeError("a wrong verdict on an easy answer")
    return perf_counter() - began


async def easy(count: int) -> dict[str, float]:
    """Verdicts by one worker of a pool in this process."""
    pool = LocalPool(1, 20.0)
    await pool.start()
    try:
        await pool.usable()
        worker = psutil.Process(pool.statuses()[0].pid)
        busy = sum(worker.cpu_times()[:2])
        wall_s = await judged_in_waves(lambda prompt, text: pool.verify(prompt, text, FinishReason.stop), count)
        cpu_s = sum(worker.cpu_times()[:2]) - busy
    finally:
        await pool.close()
    return {"easy_per_s": count / wall_s, "easy_per_worker_cpu_s": count / cpu_s}


async def remote(count: int) -> dict[str, float]:
    """Verdicts by one worker of a `prolong verifier` on this machine, over its socket."""
    command = [sys.executable, "-m", "prolong.launch.cli", "verifier", "--address", "tcp://127.0.0.1:0"]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    address = (await asyncio.wait_for(process.stdout.readline(), 60)).decode().split()[-1]
    numbers = itertools.count()
    with zmq.asyncio.Context() as context:
        host = RemoteHost.connect(context, address, None, Counter())
        try:
            async with asyncio.timeout(30):
                await host.attached.wait()

            def ask(prompt: Prompt, text: str) -> Awaitable[Verdict]:
                job = Judge(number=next(numbers), prompt=prompt, completion=text, finish_reason=FinishReason.stop)
                return host.judge(job, 60.0)

            wall_s = await judged_in_waves(ask, count)
        finally:
            await host.close()
            process.terminate()
            await process.wait()
    return {"remote_easy_per_s": count / wall_s}


def hard_pairs() -> list[Pair]:
    """Golden pairs of `math` that `quick` leaves open. Raises UserError without a checkout."""
    pairs = [pair for pair in read_pairs("math") + read_pairs("heldout") if pair.verifier == "math"]
    return [pair for pair in pairs if MATH.quick(Task(completion=pair.completion, answer=pair.answer)) is None]


def forget() -> None:
    """Clear every cache that could speed a judge up."""
    from math_verify import parser
    from sympy.core.cache import clear_cache

    clear_cache()
    parsed.cache_clear()
    for name in ("parse_latex_cached", "parse_expr_cached", "extract_latex"):
        getattr(parser, name).cache_clear()


def hard(rounds: int) -> dict[str, float]:
    pairs, seconds = hard_pairs(), {"ours": [], "math_verify": []}
    judges = {
        "ours": lambda pair: MATH.score(Task(completion=pair.completion, answer=pair.answer)),
        "math_verify": math_verify_given_box,
    }
    for _ in range(rounds + 1):  # the first round warms up
        for name, judge in judges.items():
            forget()
            began = perf_counter()
            for pair in pairs:
                judge(pair)
            seconds[name].append(perf_counter() - began)
    ours, theirs = seconds["ours"][1:], seconds["math_verify"][1:]
    return {
        "hard_pairs": len(pairs),
        "hard_per_s": len(pairs) / statistics.median(ours),
        "math_verify_per_s": len(pairs) / statistics.median(theirs),
        "hard_speed_ratio": median_ratio(theirs, ours),
    }


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="prolong bench math-speed", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    parser.add_argument("--count", type=int, default=20_000, help="easy verdicts")
    parser.add_argument("--rounds", type=int, default=3, help="of the hard pairs")
    args = parser.parse_args(argv)
    logging.disable(logging.ERROR)
    load_algebra()
    figures = asyncio.run(easy(args.count)) | asyncio.run(remote(args.count))
    report(figures | hard(args.rounds), as_json=args.json)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Right programs on a busy machine: the same verdicts as on a quiet one?

The golden right programs, and heavy ones that use nine tenths of their limit of CPU time, are judged by a pool: first as the
machine is, then beside busy loops, one on each core. Counted are the verdicts that differ, and those that are not 1.
The golden programs are in tests/unit/verifiers/golden of a checkout; they are not part of the wheel.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterable
from time import perf_counter

from ..common.errors import UserError
from ..common.types import FinishReason, Prompt, Verdict
from ..verifiers.sandbox.launcher import Limits
from ..verifiers.sandbox.opening import open_sandbox
from ..verifiers.workers.local_pool import LocalPool
from .golden import CHECKOUT_FOLDER

HEAVY = "total = 0\nfor i in range(int(input())):\n    total += i * i % 7\nprint(total)\n"
ROUNDS = 3_000_000  # of the heavy program: about a third of a second
NEAR_LIMIT = 0.9
TIMEOUT_S = 20.0


def right_programs(count: int) -> list[tuple[Prompt, str]]:
    """Prompts and right completions; every fourth is heavy. Raises UserError outside of a checkout."""
    path = CHECKOUT_FOLDER / "code.jsonl"
    if not path.is_file():
        raise UserError(f"{path} does not exist: the golden programs are in a checkout, not in the wheel")
    lines = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    golden = itertools.cycle([(one["problem"], one["right"]) for one in lines])
    heavy = heavy_problem()
    pairs = [(heavy, HEAVY) if number % 4 == 3 else next(golden) for number in range(count)]
    return [(_prompt(problem), _completion(problem, program)) for problem, program in pairs]


def heavy_problem() -> dict[str, object]:
    """Two tests of the heavy program, with a limit that it nearly reaches on this machine."""
    sandbox = open_sandbox()
    try:
        runs = [sandbox.run(HEAVY, f"{ROUNDS}\n", Limits(cpu_s=60, wall_s=600)) for _ in range(3)]
    finally:
        sandbox.close()
    limit_s = max(run.cpu_s for run in runs) / NEAR_LIMIT
    test = {"stdin": f"{ROUNDS}\n", "stdout": runs[0].stdout.decode()}
    return {"tests": [test, test], "test_time_limit_s": round(limit_s, 3)}


def _prompt(problem: dict[str, object]) -> Prompt:
    return Prompt(uid="", domain="code", task="", text="", token_ids=b"", verifier="code", answer=json.dumps(problem))


def _completion(problem: dict[str, object], program: str) -> str:
    return f"```{problem.get('language', 'python')}\n{program}\n```\n"


async def judged(jobs: list[tuple[Prompt, str]], workers: int) -> list[Verdict]:
    """The verdicts of a pool of its own."""
    pool = LocalPool(workers, TIMEOUT_S, preload=("code",))
    await pool.start()
    try:
        await pool.usable()
        asked: list[Awaitable[Verdict]] = [pool.verify(prompt, text, FinishReason.stop) for prompt, text in jobs]
        return await asyncio.gather(*asked)
    finally:
        await pool.close()


def beside(loops: int, work: Callable[[], list[Verdict]]) -> tuple[list[Verdict], float]:
    """Do the work beside so many busy loops. Returns its result and its seconds."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(loops)]
    began = perf_counter()
    try:
        return work(), perf_counter() - began
    finally:
        for process in busy:
            process.kill()
            process.wait()


def load_figures(count: int, workers: int, loops: int) -> dict[str, object]:
    """Judge the programs twice, without and with busy loops, and compare."""
    jobs = right_programs(count)
    quiet, quiet_s = beside(0, lambda: asyncio.run(judged(jobs, workers)))
    busy, busy_s = beside(loops, lambda: asyncio.run(judged(jobs, workers)))
    pairs = list(zip(quiet, busy, strict=True))
    differing = [f"{one.detail} / {other.detail}" for one, other in pairs if one.reward != other.reward]
    heavy = [pair for number, pair in enumerate(pairs) if number % 4 == 3]
    return {
        "load_programs": count,
        "load_busy_loops": loops,
        "load_verdicts_that_differ": len(differing),
        "load_not_1_quiet": sum(one.reward != 1.0 for one in quiet),
        "load_not_1_busy": sum(one.reward != 1.0 for one in busy),
        "load_quiet_s": quiet_s,
        "load_busy_s": busy_s,
        "load_heavy_cpu_ratio": _cpu_s(busy for _, busy in heavy) / _cpu_s(quiet for quiet, _ in heavy),
        "load_first_difference": differing[0] if differing else "-",
    }


def _cpu_s(verdicts: Iterable[Verdict]) -> float:
    return sum(verdict.metrics.get("cpu_s", 0.0) for verdict in verdicts)

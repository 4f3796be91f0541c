"""The cost of verdicts, and what load does to them. `code`: sandboxed programs, one process per test, in each backend.

`load`: 200 right programs, judged on the machine as it is and beside two busy loops (code_load.py); only on demand.

A run is one jailed process, from the request to the last byte of its output; a verdict on a program with three tests takes
three runs. The figures are those of one warm sandbox, which keeps about one core busy: parent, launcher and program take turns.
On a busy machine the CPU time of a run says more than the rate.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from time import perf_counter, process_time

import psutil

from ..common.errors import UserError
from ..verifiers import code
from ..verifiers.api import Task
from ..verifiers.sandbox.launcher import Limits
from ..verifiers.sandbox.opening import open_sandbox
from ..verifiers.sandbox.sandbox import BUBBLEWRAP, JAIL, Sandbox
from .code_load import load_figures
from .measure import report

ADD = "def add(a, b):\n    return a + b\n"
ADD_LINES = "a, b = map(int, input().split())\nprint(a + b)\n"
ADD_IN_C = '#include <cstdio>\nint main() { int a, b; scanf("%d %d", &a, &b); printf("%d\\n", a + b); }\n'
PROGRAM_LIMITS = Limits()


def rate(run: Callable[[], object], seconds: float) -> float:
    """Runs per second: the median of ten slices, which take `seconds` together."""
    run()
    rates = []
    for _ in range(10):
        began, count = perf_counter(), 0
        while perf_counter() - began < seconds / 10:
            run()
            count += 1
        rates.append(count / (perf_counter() - began))
    return statistics.median(rates)


def cpu_ms(sandbox: Sandbox, run: Callable[[], object], count: int = 50) -> float:
    """CPU milliseconds of one run: this process, the launcher and the program."""
    outermost = psutil.Process(sandbox.pid)
    family = [outermost, *outermost.children(recursive=True)]

    def spent() -> float:
        return process_time() + sum(sum(process.cpu_times()[:4]) for process in family)

    run()
    before = spent()
    for _ in range(count):
        run()
    return 1e3 * (spent() - before) / count


def sandboxed_code(seconds: float) -> dict[str, object]:
    """For every backend: runs and verdicts per second, and seconds of its start and self-test; or why it is absent."""
    result: dict[str, object] = {}
    for backend in (BUBBLEWRAP, JAIL):
        began = perf_counter()
        try:
            sandbox = open_sandbox(backends=(backend,))
        except UserError as error:
            result[f"{backend.name}"] = f"- {error}"
            continue
        try:
            result[f"{backend.name}_open_s"] = perf_counter() - began
            result |= {f"{backend.name}_{name}": value for name, value in _rates(sandbox, seconds).items()}
        finally:
            sandbox.close()
    return result


def _rates(sandbox: Sandbox, seconds: float) -> dict[str, float]:
    problem = {"function": "add", "tests": [{"args": [i, 2], "output": i + 2} for i in range(3)]}
    task = Task(completion=f"```python\n{ADD}```", answer=problem)
    rates = {
        "call_cpu_ms_per_run": cpu_ms(sandbox, lambda: sandbox.call_untrusted(ADD, "add", [1, 2], limits=PROGRAM_LIMITS)),
        "call_runs_per_s": rate(lambda: sandbox.call_untrusted(ADD, "add", [1, 2], limits=PROGRAM_LIMITS), seconds),
        "stdin_runs_per_s": rate(lambda: sandbox.run(ADD_LINES, "1 2\n", PROGRAM_LIMITS), seconds),
        "verdicts_of_3_tests_per_s": rate(lambda: code.judge_in(sandbox, task), seconds),
    }
    try:
        with sandbox.compiled(ADD_IN_C) as (_, run):
            rates["cpp_runs_per_s"] = rate(lambda: run(b"1 2\n", PROGRAM_LIMITS), seconds)
        began = perf_counter()
        with sandbox.compiled(ADD_IN_C):
            rates["cpp_compile_s"] = perf_counter() - began
    except UserError:
        rates["cpp_runs_per_s"] = float("nan")
    return rates


PARTS: dict[str, Callable[[float], dict[str, object]]] = {
    "code": sandboxed_code,
    "load": lambda seconds: load_figures(count=200, workers=2, loops=2),
}


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="prolong bench verifiers", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    parser.add_argument("--part", choices=sorted(PARTS), action="append", help="what to measure (default: code)")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    args = parser.parse_args(argv)
    result: dict[str, object] = {}
    for part in args.part or ["code"]:
        result |= PARTS[part](args.seconds)
    report(result, as_json=args.json)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

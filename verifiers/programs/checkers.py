"""Special judges: programs of the problem's that say whether an output is right, where more than one is.

    outputs of the program --input, output, expected output--> checker, a process of its own in the sandbox --> shares

The output that a checker reads is hostile, the checker is not; they never share a process. A checker that fails gives no
verdict, unless it fails for this output alone: it is then tried on the expected output, and if it can judge that, the output is
what broke it, and wrong.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ...common.errors import VerifierFailure
from ..sandbox.launcher import Limits, RunResult, RunStatus
from ..sandbox.outputs import plain_json
from ..sandbox.sandbox import Sandbox
from .problem import Checker, CodeTest
from .tally import end_of

CHECKER_LIMITS = Limits(cpu_s=10, wall_s=20, memory_mb=1024)
MAX_CHECKING_S = 40.0  # of CPU time, for all outputs of one program
POINTS = re.compile(r"points\s+(\d+(?:\.\d+)?)")
WRONG = (1, 2)  # exit codes of testlib: wrong answer, presentation error
PARTLY = 7

CheckerRun = Callable[[bytes, bytes, bytes], RunResult]  # of input, output and expected output


class CheckerFailed(Exception):
    """The checker gave no verdict."""


@contextmanager
def opened_checker(sandbox: Sandbox, checker: Checker) -> Iterator[Callable[[CodeTest, bytes], float]]:
    """Yields a function that judges the output of one test, from 0 to 1. It raises VerifierFailure where it cannot."""
    with _runner(sandbox, checker) as (run_checker, read):
        spent: list[float] = []

        def run(*texts: bytes) -> RunResult:
            result = run_checker(*texts)
            spent.append(result.cpu_s)
            return result

        def share(test: CodeTest, output: bytes) -> float:
            stdin, expected = (test.stdin or "").encode(), (test.stdout or "").encode()
            if sum(spent) > MAX_CHECKING_S:
                usual = sum(spent) / len(spent)
                if run(stdin, expected, expected).cpu_s > usual / 4:
                    raise VerifierFailure(
                        f"the problem's checker took {sum(spent):.0f} s of CPU time, also for expected outputs"
                    )
                # it is these outputs that keep it busy
                return 0.0
            try:
                return read(run(stdin, output, expected))
            except CheckerFailed as failure:
                try:
                    if not test.stdout or read(run(stdin, expected, expected)) < 1.0:
                        raise VerifierFailure(f"the problem's checker failed: {failure}")
                except CheckerFailed as again:
                    raise VerifierFailure(f"the problem's checker fails on the expected output: {again}") from again
                return 0.0

        yield share


@contextmanager
def _runner(sandbox: Sandbox, checker: Checker) -> Iterator[tuple[CheckerRun, Callable[[RunResult], float]]]:
    if checker.language == "cpp":
        with sandbox.compiled(checker.source) as (compiled, run):
            if compiled.status is not RunStatus.ok:
                said = compiled.stderr.decode(errors="replace").strip()[-200:]
                raise VerifierFailure(f"the problem's checker does not compile: {said}")
            yield lambda stdin, output, expected: run(b"", CHECKER_LIMITS, _files(stdin, output, expected)), _of_exit_code
    elif _defines_check(checker.source):
        yield lambda *texts: _called(sandbox, checker.source, *texts), _of_result
    else:
        # scripts take the expected output before the output, as those of Codeforces problems on the hub do
        yield (
            lambda stdin, output, expected: sandbox.script(
                checker.source, {"input.txt": stdin, "expected.txt": expected, "output.txt": output}, CHECKER_LIMITS
            ),
            _of_text,
        )


def _files(stdin: bytes, output: bytes, expected: bytes) -> dict[str, bytes]:
    return {"input.txt": stdin, "output.txt": output, "expected.txt": expected}


def _defines_check(source: str) -> bool:
    return any(isinstance(node, ast.FunctionDef) and node.name == "check" for node in ast.parse(source).body)


def _called(sandbox: Sandbox, source: str, stdin: bytes, output: bytes, expected: bytes) -> RunResult:
    texts = [text.decode(errors="replace") for text in (stdin, output, expected)]
    return sandbox.call_untrusted(source, "check", texts, {}, CHECKER_LIMITS)


def _of_exit_code(result: RunResult) -> float:
    """The verdict of a checker as testlib has it. Raises CheckerFailed."""
    said = result.stderr.decode(errors="replace").strip()
    if result.status is RunStatus.ok:
        return 1.0
    if result.status is RunStatus.error and result.code in WRONG:
        return 0.0
    points = POINTS.search(said)
    if result.status is RunStatus.error and result.code == PARTLY and points:
        return _as_share(float(points[1]))
    raise CheckerFailed(end_of(result))


def _of_result(result: RunResult) -> float:
    """The verdict of check(input, output, expected). Raises CheckerFailed."""
    try:
        value = plain_json(result.result) if result.status is RunStatus.ok else None
    except ValueError:
        value = None
    if not isinstance(value, bool | int | float):
        raise CheckerFailed(end_of(result))
    return _as_share(float(value))


def _of_text(result: RunResult) -> float:
    """The verdict that a script prints, as its last word. Raises CheckerFailed."""
    words = result.stdout.decode(errors="replace").split()
    try:
        return _as_share(float(words[-1])) if result.status is RunStatus.ok else _as_share(math.nan)
    except (IndexError, ValueError) as error:
        raise CheckerFailed(end_of(result)) from error


def _as_share(value: float) -> float:
    if not 0.0 <= value <= 1.0:
        raise CheckerFailed(f"it says {value:g}; expected 0 to 1")
    return value

"""`code`: does the program pass the tests? The last fenced code block behind the thinking counts.

    {"function": "add", "tests": [{"args": [1, 2], "output": 3}, ...]}                 called, what it returns is compared
    {"tests": [{"stdin": "1 2\\n", "stdout": "3\\n"}, ...], "language": "cpp"}          run, what it prints is compared

Each test is a process of its own in the sandbox, which is given arguments or standard input and nothing else; the comparison is
made here (outputs.py). Reward: the share of tests passed, or all or nothing. Programs that do not compile, and those whose
tests take more than `time_limit_s` together, earn 0 (ProRL, arXiv 2507.12507: fraction of tests, 5 s in total).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from time import monotonic
from typing import Any, Literal

import msgspec

from ..common.errors import DataError, VerifierFailure
from .answers.extraction import after_thinking
from .api import Score, Task, Verifier
from .sandbox.launcher import Limits, RunResult
from .sandbox.outputs import Tolerance, plain_json, same_text, same_value
from .sandbox.sandbox import Sandbox, shared

WALL_FACTOR = 1.6  # wall time allowed per second of CPU time: a busy machine must not cost a right program its reward
MAX_CODE_CHARS = 100_000
MAX_OUTPUT_BYTES = 1 << 16  # and eight times what is expected
TAGS = {"python": {"python", "python3", "py"}, "cpp": {"cpp", "c++", "cc", "cxx"}}


class Case(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One case: arguments and return value, or standard input and output."""

    args: list[Any] | msgspec.UnsetType = msgspec.UNSET
    kwargs: dict[str, Any] = {}
    output: Any = msgspec.UNSET
    stdin: str | msgspec.UnsetType = msgspec.UNSET
    stdout: str | msgspec.UnsetType = msgspec.UNSET


class Problem(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The answer specification."""

    tests: list[Case]
    language: Literal["python", "cpp"] = "python"
    function: str = ""  # name, Class.name, or the name of a method of a class Solution; "" for standard input and output
    reward: Literal["fraction", "all"] = "fraction"
    time_limit_s: float = 5.0  # CPU seconds of all tests together
    test_time_limit_s: float = 0.0  # of one test, which fails alone when it takes longer; 0: as above
    memory_mb: int = 1024
    compare: Literal["lines", "tokens"] = "lines"
    rel_tol: float = 0.0
    abs_tol: float = 0.0

    @property
    def tolerance(self) -> Tolerance:
        return Tolerance(rel=self.rel_tol, abs=self.abs_tol)


class Runner:
    """One program of one problem: runs its tests while the time lasts."""

    def __init__(self, problem: Problem, run: Callable[[Case, Limits], RunResult]) -> None:
        self._problem, self._run = problem, run
        self.cpu_s, self._began = 0.0, monotonic()
        self.first_failure = ""

    @property
    def wall_left_s(self) -> float:
        return WALL_FACTOR * self._problem.time_limit_s - (monotonic() - self._began)

    @property
    def out_of_time(self) -> bool:
        return self.cpu_s > self._problem.time_limit_s or self.wall_left_s <= 0

    def passes(self, number: int, test: Case) -> bool:
        problem = self._problem
        cpu_s = min(problem.test_time_limit_s or problem.time_limit_s, problem.time_limit_s - self.cpu_s)
        wall_s = min(WALL_FACTOR * (problem.test_time_limit_s or problem.time_limit_s), self.wall_left_s)
        expected = test.stdout if isinstance(test.stdout, str) else msgspec.json.encode(test.output)
        output_bytes = MAX_OUTPUT_BYTES + 8 * len(expected)
        limits = Limits(cpu_s=cpu_s, wall_s=wall_s, memory_mb=problem.memory_mb, output_bytes=output_bytes)
        result = self._run(test, limits)
        self.cpu_s += result.cpu_s
        why = _failure(problem, test, result)
        if why and not self.first_failure:
            self.first_failure = f"; test {number}: {why}"
        return not why


def _failure(problem: Problem, test: Case, result: RunResult) -> str:
    """Why this test is not passed, or nothing."""
    if result.status != "ok":
        lines = result.stderr.decode(errors="replace").strip().splitlines()
        return f"{result.status} {result.code}{': ' + lines[-1][:150] if lines else ''}"
    if isinstance(test.stdout, str):
        same = same_text(test.stdout, result.stdout, problem.compare, problem.tolerance)
        return "" if same else "wrong output"
    try:
        returned = plain_json(result.result)
    except ValueError as error:
        return f"it returned nothing that is plain JSON: {error}"[:150]
    return "" if same_value(test.output, returned, problem.tolerance) else "wrong value"


def code_block(text: str, language: str) -> str | None:
    """The last closed fenced block that is tagged with the language, else the last one without a tag, or None.

    A fence is closed by one as long as it, so that ```` may hold ```; another opening fence begins anew.
    """
    best: dict[bool, str] = {}
    start, tag, at, ticks = -1, "", 0, 0
    for line in text.splitlines(keepends=True):
        at += len(line)
        word = line.strip()
        if not word.startswith("```"):
            continue
        info = word.lstrip("`")
        if start >= 0 and len(word) - len(info) < ticks:
            continue
        if start >= 0 and not info:
            if tag in TAGS[language] or not tag:
                best[bool(tag)] = text[start : at - len(line)]
            start = -1
        else:
            start, tag, ticks = at, info.lower().split()[0] if info else "", len(word) - len(info)
    return best.get(True, best.get(False))


def quick(task: Task) -> Score | None:
    if code_block(after_thinking(task), task.answer.get("language", "python")) is None:
        return Score(reward=0.0, status="no_answer", detail="no closed code block (```) behind the thinking")
    return None


def score(task: Task) -> Score:
    """Raises VerifierFailure if the sandbox fails twice in a row."""
    try:
        return judge(shared(), task)
    except VerifierFailure:  # the launcher died, perhaps by somebody else's hand: the program is not to blame yet
        return judge(shared(), task)


def judge(sandbox: Sandbox, task: Task) -> Score:
    """The verdict, by this sandbox. Raises VerifierFailure if it fails, UserError if a compiler is missing."""
    problem = msgspec.convert(task.answer, Problem)
    code = code_block(after_thinking(task), problem.language) or ""
    if len(code) > MAX_CODE_CHARS:
        return Score(reward=0.0, detail=f"{len(code)} characters of code, at most {MAX_CODE_CHARS} are run")
    return _run_tests(sandbox, problem, code)


def _run_tests(sandbox: Sandbox, problem: Problem, code: str) -> Score:
    stamp = {"unsafe_code": 1.0} if sandbox.unsafe else {}
    with _program(sandbox, problem, code) as (trouble, run):
        if trouble:
            return Score(reward=0.0, detail=trouble, metrics=stamp)
        runner = Runner(problem, run)
        passed = 0
        for number, test in enumerate(problem.tests):
            if runner.out_of_time:
                break
            passed += runner.passes(number, test)
    share = passed / len(problem.tests)
    reward = share if problem.reward == "fraction" else float(passed == len(problem.tests))
    detail = f"passed {passed} of {len(problem.tests)}{runner.first_failure}"
    if runner.out_of_time:
        reward, detail = 0.0, f"more than {problem.time_limit_s:g} s; {detail}"
    metrics = {"tests_passed": share, "all_passed": float(passed == len(problem.tests)), "cpu_s": runner.cpu_s} | stamp
    return Score(reward=reward, detail=detail, metrics=metrics)


@contextmanager
def _program(sandbox: Sandbox, problem: Problem, code: str):
    """(why it does not compile, or nothing; what runs one test)."""
    if problem.language == "cpp":
        with sandbox.compiled(code) as (compiled, run):
            said = compiled.stderr.decode(errors="replace").strip()[-200:]
            trouble = f"it does not compile ({compiled.status}): {said}" if compiled.status != "ok" else ""
            yield trouble, lambda case, limits: run(case.stdin.encode(), limits)
    elif problem.function:
        yield "", lambda case, limits: sandbox.call_untrusted(code, problem.function, case.args, case.kwargs, limits)
    else:
        yield "", lambda case, limits: sandbox.run(code, case.stdin, limits)


def probe(answer: dict[str, Any]) -> None:
    """Raises VerifierFailure unless a harmless program of this kind gets full reward, so that the fault is not ours."""
    language = answer.get("language", "python")
    code = {"python": "print(1)", "cpp": '#include <cstdio>\nint main() { puts("1"); }'}[language]
    problem = Problem(tests=[Case(stdin="", stdout="1")], language=language)
    verdict = _run_tests(shared(), problem, code)
    if verdict.reward != 1.0:
        raise VerifierFailure(f"a harmless {language} program failed in the {shared().backend} sandbox: {verdict.detail}")


def load() -> None:
    """Raises UserError unless a sandbox passes its self-test, or unsafe code is allowed."""
    shared()


def check(answer: dict[str, Any]) -> None:
    try:
        problem = msgspec.convert(answer, Problem)
    except msgspec.ValidationError as error:
        raise DataError(f"verifier code: {error}; expected a problem such as {EXAMPLE}") from error
    wants = "args and output" if problem.function else "stdin and stdout"
    complete = all(
        (test.args is not msgspec.UNSET and test.output is not msgspec.UNSET and test.stdin is msgspec.UNSET)
        if problem.function
        else (test.stdin is not msgspec.UNSET and test.stdout is not msgspec.UNSET and test.args is msgspec.UNSET)
        for test in problem.tests
    )
    if not problem.tests or not complete:
        raise DataError(f"verifier code: got {answer!r:.200}; expected at least one test, each with {wants}, such as {EXAMPLE}")
    if problem.function and problem.language != "python":
        raise DataError(f"verifier code: function {problem.function!r} in {problem.language}; expected language python")
    for name, value, most in (("time_limit_s", problem.time_limit_s, 60), ("memory_mb", problem.memory_mb, 16384)):
        if not 0 < value <= most:
            raise DataError(f"verifier code: {name} = {value}; expected more than 0, at most {most}")
    if min(problem.test_time_limit_s, problem.rel_tol, problem.abs_tol) < 0:
        raise DataError(f"verifier code: got {answer!r:.200}; expected limits and tolerances that are not negative")


EXAMPLE = '{"function": "add", "tests": [{"args": [1, 2], "output": 3}]} or {"tests": [{"stdin": "1 2", "stdout": "3"}]}'
CODE = Verifier(check=check, load=load, quick=quick, score=score, probe=probe, eager=True, in_sandbox=lambda answer: True)

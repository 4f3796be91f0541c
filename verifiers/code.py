"""`code`: does the program pass the tests? The last fenced code block behind the thinking counts.

    {"function": "add", "tests": [{"args": [1, 2], "output": 3}, ...]}              called; its return value is compared
    {"tests": [{"stdin": "1 2\\n", "stdout": "3\\n"}, ...], "language": "cpp"}      run; its standard output is compared

Each test is a process of its own in the sandbox, which gets arguments or standard input and nothing else; the comparison is
made here (sandbox/outputs.py). The reward is the share of tests passed, or all or nothing. Programs that do not compile, and
those whose tests take more than `time_limit_s` together, earn 0 (ProRL, arXiv 2507.12507: fraction of tests, 5 s in total).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from time import monotonic
from typing import Any, Literal

import msgspec

from ..common.errors import DataError, VerifierFailure
from ..common.json_object import JsonObject
from ..common.types import VerdictStatus
from .answers.extraction import after_thinking
from .api import Answer, Score, Task, Verifier
from .sandbox.launcher import Limits, RunResult, RunStatus
from .sandbox.opening import open_for_process
from .sandbox.outputs import Tolerance, plain_json, same_text, same_value
from .sandbox.sandbox import Sandbox, retry_once

# wall time allowed per second of CPU time: a busy machine must not cost a right program its reward
WALL_FACTOR = 1.6
MAX_CODE_CHARS = 100_000
MAX_OUTPUT_BYTES = 1 << 16  # plus eight times the expected output
MAX_TIME_LIMIT_S, MAX_MEMORY_MB = 60, 16384
TAGS = {"python": {"python", "python3", "py"}, "cpp": {"cpp", "c++", "cc", "cxx"}}


class CodeTest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One test: arguments and return value, or standard input and output."""

    args: list[Any] | msgspec.UnsetType = msgspec.UNSET
    kwargs: JsonObject = {}
    output: Any = msgspec.UNSET
    stdin: str | msgspec.UnsetType = msgspec.UNSET
    stdout: str | msgspec.UnsetType = msgspec.UNSET


class CodeProblem(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The answer specification."""

    tests: list[CodeTest]
    language: Literal["python", "cpp"] = "python"
    # name, Class.name, or the name of a method of a class Solution; "" for standard input and output
    function: str = ""
    reward: Literal["fraction", "all"] = "fraction"
    time_limit_s: float = 5.0  # CPU seconds of all tests together
    # CPU seconds of one test, which fails without the others if it takes longer; 0: as above
    test_time_limit_s: float = 0.0
    memory_mb: int = 1024
    compare: Literal["lines", "tokens"] = "lines"
    rel_tol: float = 0.0
    abs_tol: float = 0.0

    @property
    def tolerance(self) -> Tolerance:
        return Tolerance(rel=self.rel_tol, abs=self.abs_tol)


class CodeRun:
    """Runs the tests of one program while its time lasts."""

    def __init__(self, problem: CodeProblem, run: Callable[[CodeTest, Limits], RunResult]) -> None:
        self._problem, self._run = problem, run
        self.cpu_s, self._began = 0.0, monotonic()
        self.first_failure = ""

    @property
    def wall_left_s(self) -> float:
        return WALL_FACTOR * self._problem.time_limit_s - (monotonic() - self._began)

    @property
    def out_of_time(self) -> bool:
        return self.cpu_s > self._problem.time_limit_s or self.wall_left_s <= 0

    def passes(self, number: int, test: CodeTest) -> bool:
        """Run one test within the limits that the tests before it left."""
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


def _failure(problem: CodeProblem, test: CodeTest, result: RunResult) -> str:
    """The reason why a test is not passed; "" if it is passed."""
    if result.status is not RunStatus.ok:
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

    A fence is closed by one that is at least as long, so that ```` may hold ```. Another opening fence restarts the block.
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


def judge_in(sandbox: Sandbox, task: Task) -> Score:
    """Judge in this sandbox. Raises VerifierFailure if it fails, UserError if a compiler is missing."""
    problem = msgspec.convert(task.answer, CodeProblem)
    code = code_block(after_thinking(task), problem.language) or ""
    if len(code) > MAX_CODE_CHARS:
        return Score(reward=0.0, detail=f"{len(code)} characters of code, at most {MAX_CODE_CHARS} are run")
    return _run_tests(sandbox, problem, code)


def _run_tests(sandbox: Sandbox, problem: CodeProblem, code: str) -> Score:
    stamp = {"unsafe_code": 1.0} if sandbox.unsafe else {}
    with _program(sandbox, problem, code) as (trouble, run):
        if trouble:
            return Score(reward=0.0, detail=trouble, metrics=stamp)
        runner = CodeRun(problem, run)
        passed = 0
        for number, test in enumerate(problem.tests):
            if runner.out_of_time:
                break
            if runner.passes(number, test):
                passed += 1
    share, all_passed = passed / len(problem.tests), float(passed == len(problem.tests))
    reward = share if problem.reward == "fraction" else all_passed
    detail = f"passed {passed} of {len(problem.tests)}{runner.first_failure}"
    if runner.out_of_time:
        reward, detail = 0.0, f"more than {problem.time_limit_s:g} s; {detail}"
    metrics = {"tests_passed": share, "all_passed": all_passed, "cpu_s": runner.cpu_s} | stamp
    return Score(reward=reward, detail=detail, metrics=metrics)


@contextmanager
def _program(sandbox: Sandbox, problem: CodeProblem, code: str):
    """Yields (the compiler's complaint or "", function that runs one test)."""
    if problem.language == "cpp":
        with sandbox.compiled(code) as (compiled, run):
            said = compiled.stderr.decode(errors="replace").strip()[-200:]
            failed = compiled.status is not RunStatus.ok
            trouble = f"it does not compile ({compiled.status}): {said}" if failed else ""
            yield trouble, lambda test, limits: run(test.stdin.encode(), limits)
    elif problem.function:
        yield "", lambda test, limits: sandbox.call_untrusted(code, problem.function, test.args, test.kwargs, limits)
    else:
        yield "", lambda test, limits: sandbox.run(code, test.stdin, limits)


class CodeVerifier(Verifier):
    """The last fenced code block after `</think>`, run in a sandbox: the share of tests passed, or all or nothing."""

    eager = True

    def __init__(self, sandbox: Sandbox | None = None) -> None:
        """sandbox: already open; otherwise `open_sandbox` opens one for this process."""
        self._sandbox = sandbox

    def check(self, answer: Answer) -> None:
        try:
            problem = msgspec.convert(answer, CodeProblem)
        except msgspec.ValidationError as error:
            raise DataError(f"verifier code: {error}; expected a problem such as {EXAMPLE}") from error
        wants = "args and output" if problem.function else "stdin and stdout"
        is_complete = _is_call if problem.function else _is_program_run
        if not problem.tests or not all(map(is_complete, problem.tests)):
            expected = f"at least one test, each with {wants}, such as {EXAMPLE}"
            raise DataError(f"verifier code: got {answer!r:.200}; expected {expected}")
        if problem.function and problem.language != "python":
            raise DataError(f"verifier code: function {problem.function!r} in {problem.language}; expected language python")
        limits = (("time_limit_s", problem.time_limit_s, MAX_TIME_LIMIT_S), ("memory_mb", problem.memory_mb, MAX_MEMORY_MB))
        for name, value, most in limits:
            if not 0 < value <= most:
                raise DataError(f"verifier code: {name} = {value}; expected more than 0, at most {most}")
        if min(problem.test_time_limit_s, problem.rel_tol, problem.abs_tol) < 0:
            raise DataError(f"verifier code: got {answer!r:.200}; expected limits and tolerances that are not negative")

    def gold(self, answer: Answer) -> str | None:
        return None  # tests do not tell a program that passes them

    def needs_sandbox(self, answer: Answer) -> bool:
        return True

    def open_sandbox(self, *, allow_unsafe: bool) -> None:
        if self._sandbox is None:
            self._sandbox = open_for_process(allow_unsafe=allow_unsafe)

    def quick(self, task: Task) -> Score | None:
        if code_block(after_thinking(task), task.answer.get("language", "python")) is None:
            return Score(reward=0.0, status=VerdictStatus.no_answer, detail="no closed code block (```) behind the thinking")
        return None

    def score(self, task: Task) -> Score:
        """Raises VerifierFailure if the sandbox fails twice in a row."""
        sandbox = self._open()
        return retry_once(lambda: judge_in(sandbox, task))

    def probe(self, answer: Answer) -> bool:
        """Raises VerifierFailure unless a harmless program of this kind gets full reward, because the fault is then ours."""
        sandbox = self._open()
        language = answer.get("language", "python")
        code = {"python": "print(1)", "cpp": '#include <cstdio>\nint main() { puts("1"); }'}[language]
        problem = CodeProblem(tests=[CodeTest(stdin="", stdout="1")], language=language)
        verdict = _run_tests(sandbox, problem, code)
        if verdict.reward != 1.0:
            raise VerifierFailure(f"a harmless {language} program failed in the {sandbox.backend} sandbox: {verdict.detail}")
        return True

    def _open(self) -> Sandbox:
        assert self._sandbox is not None, "open_sandbox comes first"
        return self._sandbox


def _is_call(test: CodeTest) -> bool:
    return test.args is not msgspec.UNSET and test.output is not msgspec.UNSET and test.stdin is msgspec.UNSET


def _is_program_run(test: CodeTest) -> bool:
    return test.stdin is not msgspec.UNSET and test.stdout is not msgspec.UNSET and test.args is msgspec.UNSET


EXAMPLE = '{"function": "add", "tests": [{"args": [1, 2], "output": 3}]} or {"tests": [{"stdin": "1 2", "stdout": "3"}]}'
CODE = CodeVerifier()

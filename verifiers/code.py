"""`code`: does the program pass the tests? A fenced code block behind the thinking counts (programs/blocks.py).

    completion --blocks--> program --one process per test, in the sandbox--> outputs --compared here, or by a checker--> reward

The forms of the answer are in programs/problem.py. A test is a process of its own, which gets arguments or standard input and
nothing else; what is right never enters it. The reward is the share of tests passed, or all or nothing (programs/tally.py).
Programs that do not compile, and those whose tests take too long together, earn 0 (ProRL, arXiv 2507.12507).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager

import msgspec

from ..common.errors import VerifierFailure
from ..common.types import VerdictStatus
from .answers.extraction import after_thinking
from .api import Answer, Score, Task, Verifier
from .programs.blocks import code_block
from .programs.checkers import opened_checker
from .programs.problem import Checker, CodeProblem, CodeTest, problem_of
from .programs.scripts import Script
from .programs.tally import Tally, failure_of
from .sandbox.launcher import RunResult, RunStatus
from .sandbox.opening import open_for_process
from .sandbox.outputs import plain_json, same_text, same_value
from .sandbox.sandbox import HARMLESS_CPP, Sandbox, cpp_compiler, retry_once

MAX_CODE_CHARS = 100_000
CHECKED_BYTES = 1 << 17  # an expected output is taken for no shorter where others are right as well


def _failure(problem: CodeProblem, test: CodeTest, result: RunResult) -> str:
    """The reason why a test is not passed; "" if it is passed."""
    if why := failure_of(result):
        return why
    if isinstance(test.stdout, str):
        same = same_text(test.stdout, result.stdout, problem.compare, problem.tolerance)
        return "" if same else "wrong output"
    try:
        returned = plain_json(result.result)
    except ValueError as error:
        return f"it returned nothing that is plain JSON: {error}"[:150]
    return "" if same_value(test.output, returned, problem.tolerance) else "wrong value"


def program_in(task: Task, problem: CodeProblem) -> str | None:
    """The block of the completion that counts; None if there is none."""
    defines = problem.function or problem.entry_point
    reads = any(test.stdin for test in problem.tests)
    return code_block(after_thinking(task), problem.language, defines=defines, reads=reads)


def judge_in(sandbox: Sandbox, task: Task) -> Score:
    """Judge in this sandbox. Raises VerifierFailure if it fails, UserError if a compiler is missing."""
    problem = msgspec.convert(task.answer, CodeProblem)
    code = program_in(task, problem) or ""
    if len(code) > MAX_CODE_CHARS:
        return Score(reward=0.0, detail=f"{len(code)} characters of code, at most {MAX_CODE_CHARS} are run")
    return _run_tests(sandbox, problem, code)


def _run_tests(sandbox: Sandbox, problem: CodeProblem, code: str) -> Score:
    stamp = {"unsafe_code": 1.0} if sandbox.unsafe else {}
    tally = Tally(problem)
    if problem.is_scripted:
        return _run_script(sandbox, problem, code, tally, stamp)
    results: list[RunResult] = []
    with _program(sandbox, problem, code) as (trouble, run):
        if trouble:
            return Score(reward=0.0, detail=trouble, metrics=stamp)
        for test in problem.tests:
            if not tally.goes_on:
                break
            results.append(run(test, tally.limits(_expected_bytes(problem, test))))
            tally.add_run(results[-1])
    if problem.checker:
        _check(sandbox, problem.checker, problem.tests, results, tally)
    else:
        for number, (test, result) in enumerate(zip(problem.tests, results, strict=False)):
            tally.add_verdict(number, _failure(problem, test, result), _output(result))
    return tally.score(len(problem.tests), stamp)


def _expected_bytes(problem: CodeProblem, test: CodeTest) -> int:
    if problem.checker:
        return max(CHECKED_BYTES, len(test.stdout or ""))
    return len(test.stdout if isinstance(test.stdout, str) else msgspec.json.encode(test.output))


def _output(result: RunResult) -> bytes | None:
    return (result.result or result.stdout) if result.status is RunStatus.ok else None


def _check(sandbox: Sandbox, checker: Checker, tests: list[CodeTest], results: list[RunResult], tally: Tally) -> None:
    """Have a checker judge the outputs. Raises VerifierFailure if it cannot."""
    with opened_checker(sandbox, checker) as share_of:
        for number, (test, result) in enumerate(zip(tests, results, strict=False)):
            why = failure_of(result)
            share = 0.0 if why else share_of(test, result.stdout)
            tally.add_verdict(number, why or ("" if share == 1.0 else "wrong output"), _output(result), share)


def _run_script(sandbox: Sandbox, problem: CodeProblem, code: str, tally: Tally, stamp: dict[str, float]) -> Score:
    script = Script(sandbox, problem, code, tally)
    script.run()
    for number, test in enumerate(script.tests):
        why = test.why or "not run" if test.state != "passed" else ""
        tally.add_verdict(number, why, test.output)
    return tally.score(len(script.tests), stamp)


@contextmanager
def _program(sandbox: Sandbox, problem: CodeProblem, code: str):
    """Yields (the compiler's complaint or "", function that runs one test)."""
    if problem.language == "cpp":
        with sandbox.compiled(code, problem.std) as (compiled, run):
            said = compiled.stderr.decode(errors="replace").strip()[-200:]
            failed = compiled.status is not RunStatus.ok
            trouble = f"it does not compile ({compiled.status}): {said}" if failed else ""
            yield trouble, lambda test, limits: run(test.stdin.encode(), limits)
    elif problem.function:
        yield (
            "",
            lambda test, limits: sandbox.call_untrusted(code, problem.function, test.args, test.kwargs, limits, problem.setup),
        )
    else:
        yield "", lambda test, limits: sandbox.run(code, test.stdin, limits)


class CodeVerifier(Verifier):
    """A fenced code block after `</think>`, run in a sandbox: the share of tests passed, or all or nothing."""

    eager = True

    def __init__(self, sandbox: Sandbox | None = None) -> None:
        """sandbox: already open; otherwise `open_sandbox` opens one for this process."""
        self._sandbox = sandbox

    def check(self, answer: Answer) -> None:
        problem_of(answer)

    def gold(self, answer: Answer) -> str | None:
        return None  # tests do not tell a program that passes them

    def needs_sandbox(self, answer: Answer) -> bool:
        return True

    def open_sandbox(self, *, allow_unsafe: bool) -> None:
        if self._sandbox is None:
            self._sandbox = open_for_process(allow_unsafe=allow_unsafe)

    def check_machine(self, answer: Answer) -> None:
        if "cpp" in (answer.get("language"), (answer.get("checker") or {}).get("language")):
            cpp_compiler()

    def granted_s(self, answer: Answer) -> float:
        try:
            return msgspec.convert(answer, CodeProblem).total_limit_s
        except msgspec.ValidationError:
            return 0.0

    def report_to(self, alive: Callable[[], None]) -> None:
        self._open().on_look = alive

    def quick(self, task: Task) -> Score | None:
        if code_block(after_thinking(task), task.answer.get("language", "python")) is None:
            detail = "no closed code block (```) behind the thinking"
            return Score(reward=0.0, status=VerdictStatus.no_answer, detail=detail)
        return None

    def score(self, task: Task) -> Score:
        """Raises VerifierFailure if the sandbox fails twice in a row."""
        sandbox = self._open()
        return retry_once(lambda: judge_in(sandbox, task))

    def probe(self, answer: Answer) -> bool:
        """Raises VerifierFailure unless a harmless program of this kind gets full reward, because the fault is then ours."""
        sandbox = self._open()
        language = answer.get("language", "python")
        code = {"python": "print(1)", "cpp": HARMLESS_CPP}[language]
        problem = CodeProblem(tests=[CodeTest(stdin="", stdout="1")], language=language)
        verdict = _run_tests(sandbox, problem, code)
        if verdict.reward != 1.0:
            raise VerifierFailure(f"a harmless {language} program failed in the {sandbox.backend} sandbox: {verdict.detail}")
        return True

    def _open(self) -> Sandbox:
        assert self._sandbox is not None, "open_sandbox comes first"
        return self._sandbox


CODE = CodeVerifier()

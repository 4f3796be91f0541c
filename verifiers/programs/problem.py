"""The answer specification of the verifier `code`. docs/verifiers.md shows every form of it.

{"function": "add", "tests": [{"args": [1, 2], "output": 3}]}          called; its return value is compared
{"tests": [{"stdin": "1 2\\n", "stdout": "3\\n"}], "language": "cpp"}   run; its standard output is compared
{"tests": [{"stdin": "4\\n"}], "checker": {"source": ...}}              run; a checker judges its standard output
{"asserts": ["assert add(1, 2) == 3"]}                                 every assertion is a test
{"test_code": "def check(candidate): ...", "entry_point": "add"}       a test script: check, test_ functions, or plain code
"""

from __future__ import annotations

import ast
import re
import warnings
from typing import Any, Literal

import msgspec

from ...common.errors import DataError
from ...common.json_object import JsonObject
from ..api import Answer
from ..sandbox.outputs import AS_JUDGES, Tolerance

# LiveCodeBench gives a test six seconds; the judges of contests give one or two, on faster machines
TEST_LIMIT_S = 6.0
MAX_TEST_LIMIT_S, MAX_TIME_LIMIT_S, MAX_MEMORY_MB = 60, 300, 16384
STANDARDS = ("", "c++11", "c++14", "c++17", "c++20", "c++23")
Json = Any  # a stored argument or return value
ENTRY_POINT = re.compile(r"[^\W\d]\w*(?:\(\))?(?:\.[^\W\d]\w*)?")


class CodeTest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One test: arguments and return value, or standard input and output."""

    args: list[Json] | msgspec.UnsetType = msgspec.UNSET
    kwargs: JsonObject = {}
    output: Json = msgspec.UNSET
    stdin: str | msgspec.UnsetType = msgspec.UNSET
    stdout: str | msgspec.UnsetType = msgspec.UNSET  # with a checker it may be missing

    @property
    def is_call(self) -> bool:
        return self.args is not msgspec.UNSET and self.output is not msgspec.UNSET and self.stdin is msgspec.UNSET

    @property
    def has_input(self) -> bool:
        return self.stdin is not msgspec.UNSET and self.args is msgspec.UNSET and self.output is msgspec.UNSET


class Checker(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A special judge: a program that says whether an output is right, where more than one is.

    In Python it is a function `check(input, output, expected)`, or a script that is started with the paths of input, expected
    output and output and prints 0, 1 or a share. In C++ it is started as testlib's: input, output, expected output; exit code 0
    says right, 1 and 2 say wrong.
    """

    source: str
    language: Literal["python", "cpp"] = "python"


class CodeProblem(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The answer specification."""

    tests: list[CodeTest] = []
    language: Literal["python", "cpp"] = "python"
    # name, Class.name, or the name of a method of a class Solution; "" for standard input and output
    function: str = ""
    asserts: list[str] = []
    test_code: str = ""
    entry_point: str = ""  # what check(candidate) gets: add, Solution().add
    setup: str = ""  # Python code in front of the program, and of asserts and test_code
    checker: Checker | None = None
    reward: Literal["fraction", "all"] = "fraction"
    time_limit_s: float | msgspec.UnsetType = msgspec.UNSET  # CPU seconds of all tests together
    # CPU seconds of one test, which fails without the others if it takes longer; 0: time_limit_s, else TEST_LIMIT_S
    test_time_limit_s: float = 0.0
    memory_mb: int = 1024
    compare: Literal["lines", "tokens"] = "lines"
    rel_tol: float | msgspec.UnsetType = msgspec.UNSET
    abs_tol: float | msgspec.UnsetType = msgspec.UNSET
    std: str = ""  # of C++; "": the first of the compiler's that takes the program

    @property
    def tolerance(self) -> Tolerance:
        """The stated tolerance, which holds for all numbers of a text; else that of public judges, which spares integers."""
        if self.rel_tol is msgspec.UNSET and self.abs_tol is msgspec.UNSET:
            return AS_JUDGES
        return Tolerance(rel=self.rel_tol or 0.0, abs=self.abs_tol or 0.0)

    @property
    def is_scripted(self) -> bool:
        """Whether test code calls the program, and not we with stored arguments."""
        return bool(self.asserts or self.test_code)

    @property
    def num_tests(self) -> int:
        return len(self.tests) or len(self.asserts) or MAX_UNITS

    @property
    def test_limit_s(self) -> float:
        """CPU seconds of one test."""
        total = self.time_limit_s or TEST_LIMIT_S
        return min(self.test_time_limit_s or total, MAX_TEST_LIMIT_S, total if self.time_limit_s else MAX_TEST_LIMIT_S)

    @property
    def total_limit_s(self) -> float:
        """CPU seconds of all tests together."""
        return self.time_limit_s or min(self.num_tests * self.test_limit_s, MAX_TIME_LIMIT_S)


MAX_UNITS = 64  # tests of one test script that are told apart
EXAMPLE = (
    '{"function": "add", "tests": [{"args": [1, 2], "output": 3}]}, {"tests": [{"stdin": "1 2", "stdout": "3"}]}, '
    '{"asserts": ["assert add(1, 2) == 3"]} or {"test_code": "def check(candidate): ...", "entry_point": "add"}'
)


def problem_of(answer: Answer) -> CodeProblem:
    """The problem that an answer states. Raises DataError unless it can be judged."""
    try:
        problem = msgspec.convert(answer, CodeProblem)
    except msgspec.ValidationError as error:
        raise DataError(f"verifier code: {error}; expected a problem such as {EXAMPLE}") from error
    _check_tests(answer, problem)
    _check_limits(answer, problem)
    _check_sources(problem)
    return problem


def _check_tests(answer: Answer, problem: CodeProblem) -> None:
    if sum(map(bool, (problem.tests, problem.asserts, problem.test_code))) != 1:
        raise DataError(f"verifier code: got {answer!r:.200}; expected at least one test, in one form, such as {EXAMPLE}")
    if problem.function and (problem.is_scripted or problem.checker):
        raise DataError(f"verifier code: function {problem.function!r} with a checker or test code; expected args and output")
    if problem.entry_point and not problem.test_code:
        raise DataError(f"verifier code: entry_point {problem.entry_point!r} without test_code; expected both, or function")
    if problem.language != "python" and (problem.function or problem.is_scripted or problem.setup):
        raise DataError(f"verifier code: function, test code or setup in {problem.language}; expected language python")
    if problem.is_scripted:
        return
    wants = "args and output" if problem.function else "stdin" if problem.checker else "stdin and stdout"
    for number, test in enumerate(problem.tests):
        has_output = problem.checker is not None or test.stdout is not msgspec.UNSET
        if not (test.is_call if problem.function else test.has_input and has_output):
            raise DataError(f"verifier code: test {number} of {answer!r:.200}; expected {wants} in each, such as {EXAMPLE}")


def _check_limits(answer: Answer, problem: CodeProblem) -> None:
    limits: list[tuple[str, float, int]] = [("memory_mb", problem.memory_mb, MAX_MEMORY_MB)]
    if problem.time_limit_s is not msgspec.UNSET:
        limits.append(("time_limit_s", problem.time_limit_s, MAX_TIME_LIMIT_S))
    if problem.test_time_limit_s:
        limits.append(("test_time_limit_s", problem.test_time_limit_s, MAX_TEST_LIMIT_S))
    for name, value, most in limits:
        if not 0 < value <= most:
            raise DataError(f"verifier code: {name} = {value}; expected more than 0, at most {most}")
    if min(problem.rel_tol or 0.0, problem.abs_tol or 0.0) < 0:
        raise DataError(f"verifier code: got {answer!r:.200}; expected tolerances that are not negative")


def _check_sources(problem: CodeProblem) -> None:
    """Raise DataError unless the code of the answer itself is code."""
    sources = [("setup", problem.setup), ("test_code", problem.test_code)]
    sources += [(f"asserts[{number}]", text) for number, text in enumerate(problem.asserts)]
    if problem.checker and problem.checker.language == "python":
        sources.append(("checker", problem.checker.source))
    for name, source in sources:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                ast.parse(source)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise DataError(f"verifier code: {name} = {source!r:.200} is not Python: {error}; expected code") from error
    if problem.checker and not problem.checker.source.strip():
        raise DataError("verifier code: checker without a source; expected a program")
    if problem.entry_point and not ENTRY_POINT.fullmatch(problem.entry_point):
        raise DataError(f"verifier code: entry_point = {problem.entry_point!r}; expected a name such as add or Solution().add")
    if problem.std not in STANDARDS:
        raise DataError(f"verifier code: std = {problem.std!r}; expected one of {', '.join(STANDARDS[1:])}, or none")

"""Test code against a program, each in a process of its own.

    tester.py (trusted: the problem's test code) <--operations, answers--> Script <--> the program, a process per operation

The test code is run until it asks the program something that was not answered; the program answers in the sandbox, where
neither the test code nor any expected value is; then the test code is run again with the answer. An operation that depends on
objects of earlier ones is done in one process with them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import msgspec

from ...common.errors import VerifierFailure
from ...common.json_object import JsonObject
from ..sandbox.launcher import Limits, RunResult, RunStatus
from ..sandbox.outputs import plain_json
from ..sandbox.sandbox import Sandbox
from .problem import CodeProblem
from .tally import Tally, failure_of

MAX_ANSWER_BYTES = 4 << 20
MAX_OPERATIONS = 1000  # of one test
TESTER_MODULE = "prolong.verifiers.sandbox.tester"
TESTER_LIMITS = Limits(cpu_s=20, wall_s=40, memory_mb=2048, output_bytes=16 << 20)
DEFINITIONS = re.compile(r"^(?:async[ \t]+)?(?:def|class)[ \t]+(\w+)", re.MULTILINE)


@dataclass
class ScriptTest:
    """One test of the script, so far."""

    number: int
    answers: list[JsonObject] = field(default_factory=list)
    operations: list[JsonObject] = field(default_factory=list)
    state: str = "pending"  # passed, failed, pending; idle if it asks the program nothing
    why: str = ""
    uses_objects: bool = False
    shares_objects: bool = False

    def take(self, row: JsonObject) -> None:
        """Take over what the test code says."""
        self.state, self.why = row["state"], row["why"]
        self.operations += row["operations"]
        self.uses_objects, self.shares_objects = row["uses_objects"], row["shares_objects"]

    def fail(self, why: str) -> None:
        self.state, self.why = "failed", why

    @property
    def output(self) -> bytes | None:
        """The answer of the program, where the test asked for one alone."""
        if len(self.answers) != 1 or "raised" in self.answers[0]:
            return None
        return msgspec.json.encode(self.answers[0].get("value"))


class Script:
    """The test code of one problem with one program."""

    def __init__(self, sandbox: Sandbox, problem: CodeProblem, code: str, tally: Tally) -> None:
        self._sandbox, self._problem, self._code, self._tally = sandbox, problem, code, tally
        self._whole = False
        self.tests: list[ScriptTest] = []

    def run(self) -> None:
        """Run all tests. Raises VerifierFailure where the test code itself cannot be run, or never asks the program."""
        self._begin()
        while waiting := [test for test in self.tests if test.state == "pending"]:
            for test in waiting:
                if not self._tally.goes_on:
                    return
                self._answer(test)
            self._look([test for test in waiting if test.state == "pending"])
            if not self._whole and any(test.shares_objects for test in self.tests):
                # assertions that need the objects of others cannot be told apart
                self._whole = True
                self._begin()
        self.tests = [test for test in self.tests if test.state != "idle"]

    def _begin(self) -> None:
        """Find the tests, and what they ask first. The program has no part in it yet, so that a failure is the test code's."""
        rows = self._report({}, None) or []
        broken = [row["why"] for row in rows if row["state"] == "failed"]
        if broken or all(row["state"] == "idle" for row in rows):
            why = broken[0] if broken else "it cannot be run, or never calls the program"
            raise VerifierFailure(f"the problem's test code is no test: {why}")
        self.tests = [ScriptTest(row["number"]) for row in rows]
        for test, row in zip(self.tests, rows, strict=True):
            test.take(row)

    def _look(self, tests: list[ScriptTest]) -> None:
        """Run the test code with the answers that are known by now."""
        rows = self._report({str(test.number): test.answers for test in tests}, [test.number for test in tests])
        if rows is None and len(tests) > 1:
            for test in tests:
                self._look([test])
        elif rows is None:
            tests[0].fail("the test does not end well with its answer")
        else:
            for test, row in zip(tests, rows, strict=True):
                test.take(row)

    def _report(self, answers: dict[str, list[JsonObject]], only: list[int] | None) -> list[JsonObject] | None:
        """What the test code says; None if it broke off. Raises VerifierFailure."""
        if only == []:
            return []
        problem = self._problem
        spec = {
            "asserts": problem.asserts,
            "test_code": problem.test_code,
            "setup": problem.setup,
            "entry_point": problem.entry_point,
            "defined": DEFINITIONS.findall(self._code),
            "whole": self._whole,
        }
        tester = self._sandbox.companion(TESTER_MODULE)
        try:
            result = tester.call(TESTER_MODULE, "run_tests", [spec, answers, only], TESTER_LIMITS)
            return plain_json(result.result) if result.status is RunStatus.ok else None
        except (RecursionError, ValueError):
            # an answer that is nested too deeply to be handed on
            return None

    def _answer(self, test: ScriptTest) -> None:
        """Have the program answer what the test waits for."""
        if len(test.operations) > MAX_OPERATIONS:
            test.fail(f"it asks more than {MAX_OPERATIONS} times")
            return
        asked = test.operations if test.uses_objects else test.operations[-1:]
        try:
            result = self._sandbox.trace(self._code, self._problem.setup, asked, self._tally.limits(MAX_ANSWER_BYTES // 8))
        except RecursionError:
            test.fail("an argument is nested too deeply to be handed over")
            return
        self._tally.add_run(result)
        answers = _answers(result)
        if len(answers) != len(asked):
            test.fail(failure_of(result) or "it returned nothing that is a value")
        elif test.uses_objects:
            test.answers = answers
        else:
            test.answers += answers


def _answers(result: RunResult) -> list[JsonObject]:
    """The answers in a result; [] for any other bytes."""
    try:
        found = plain_json(result.result) if result.status is RunStatus.ok else []
    except ValueError:
        return []
    return found if isinstance(found, list) and all(isinstance(one, dict) for one in found) else []

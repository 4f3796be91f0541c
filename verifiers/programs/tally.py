"""The account of one program's tests: time, failures, and what they are worth.

The reward is the share of tests passed, or all or nothing. A program that prints the same on every test, and is wrong on one of
them, earns 0: it only knows which output is the most frequent.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ..api import Score
from ..sandbox.launcher import Limits, RunResult, RunStatus
from .problem import CodeProblem

# seconds that a program may take, not counting those in which it waits for a processor, per second of its CPU time
WALL_FACTOR = 2.0
MAX_OUTPUT_BYTES = 1 << 16  # plus eight times the expected output
# programs whose tests run into their limits again and again are not run on all of them
MAX_TIMEOUTS = 3
MAX_TIMEOUTS_AT_FIRST = 2  # of a program that has not ended by itself yet
FEW_TESTS = 3  # below this many tests nothing tells a constant from a program that is right now and then


@dataclass
class Tally:
    """Adds up the tests of one program. A test that was not run counts as one that failed.

    outputs: what the program said in each test that it ended by itself.
    """

    problem: CodeProblem
    cpu_s: float = 0.0
    awake_s: float = 0.0  # wall time, without the time in which programs waited for a processor
    num_timeouts: int = 0
    num_ended: int = 0
    passed: float = 0  # a checker may pass a test in part
    first_failure: str = ""
    outputs: list[bytes] = field(default_factory=list)

    @property
    def out_of_time(self) -> bool:
        """Whether all tests together took too long."""
        total = self.problem.total_limit_s
        return self.cpu_s > total or self.awake_s > WALL_FACTOR * total

    @property
    def goes_on(self) -> bool:
        most = MAX_TIMEOUTS if self.num_ended else MAX_TIMEOUTS_AT_FIRST
        return not self.out_of_time and self.num_timeouts < most

    def limits(self, expected_bytes: int) -> Limits:
        """The limits of the next test."""
        problem = self.problem
        cpu_s = min(problem.test_limit_s, max(problem.total_limit_s - self.cpu_s, 0.01))
        wall_s = min(WALL_FACTOR * problem.test_limit_s, max(WALL_FACTOR * problem.total_limit_s - self.awake_s, 0.01))
        output_bytes = MAX_OUTPUT_BYTES + 8 * expected_bytes
        return Limits(cpu_s=cpu_s, wall_s=wall_s, memory_mb=problem.memory_mb, output_bytes=output_bytes)

    def add_run(self, result: RunResult) -> None:
        """Count the time of a run."""
        self.cpu_s += result.cpu_s
        self.awake_s += max(0.0, result.seconds - result.waited_s)
        self.num_timeouts += result.status is RunStatus.timeout
        self.num_ended += result.status is RunStatus.ok

    def add_verdict(self, number: int, why: str, output: bytes | None, share: float = 0.0) -> None:
        """Count a test. why: the reason why it failed, or "". output: None if the program did not end by itself.

        share: what a failed test is worth all the same.
        """
        if output is not None:
            self.outputs.append(output)
        self.passed += share if why else 1
        if why and not self.first_failure:
            self.first_failure = f"; test {number}: {why}"

    def score(self, num_tests: int, stamp: dict[str, float]) -> Score:
        """The reward for what was added."""
        problem, share, all_passed = self.problem, self.passed / num_tests, float(self.passed == num_tests)
        reward = share if problem.reward == "fraction" else all_passed
        detail = f"passed {self.passed:g} of {num_tests}{self.first_failure}"
        if self.out_of_time:
            reward, detail = 0.0, f"more than {problem.total_limit_s:g} s; {detail}"
        elif not all_passed and num_tests >= FEW_TESTS and self.is_constant:
            reward, detail = 0.0, f"the same output on every test; {detail}"
        metrics = {"tests_passed": share, "all_passed": all_passed, "cpu_s": self.cpu_s} | stamp
        return Score(reward=reward, detail=detail, metrics=metrics)

    @property
    def is_constant(self) -> bool:
        """Whether all outputs are the same and not all of them are right."""
        return self.passed < len(self.outputs) and len({b" ".join(output.split()) for output in self.outputs}) == 1


def failure_of(result: RunResult) -> str:
    """The reason why a program did not end well; "" if it did."""
    return "" if result.status is RunStatus.ok else end_of(result)


def end_of(result: RunResult) -> str:
    """How a program ended, and the last line of its standard error."""
    lines = result.stderr.decode(errors="replace").strip().splitlines()
    return f"{result.status} {result.code}{': ' + lines[-1][:150] if lines else ''}"

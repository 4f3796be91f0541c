"""Special judges on a sandbox that only says how long they took; tests/integration/test_code_scripts.py runs real ones."""

import pytest
from prolong.common.errors import VerifierFailure
from prolong.verifiers.programs.checkers import MAX_CHECKING_S, opened_checker
from prolong.verifiers.programs.problem import Checker, CodeTest
from prolong.verifiers.sandbox.launcher import RunResult, RunStatus

CHECKER = Checker(language="python", source="def check(input, output, expected): ...")
TEST = CodeTest(stdin="1", stdout="right")


class Clock:
    """A sandbox in which a checker takes `slow_s` for an output, `expected_s` for the expected one, and finds both right."""

    def __init__(self, slow_s: float, expected_s: float) -> None:
        self.slow_s, self.expected_s, self.calls = slow_s, expected_s, list[str]()

    def call_untrusted(self, source: str, name: str, texts: list[str], kwargs: object, limits: object) -> RunResult:
        self.calls.append(texts[1])
        cpu_s = self.expected_s if texts[1] == "right" else self.slow_s
        return RunResult(
            status=RunStatus.ok, code=0, stdout=b"", stderr=b"", result=b"true", seconds=cpu_s, cpu_s=cpu_s, waited_s=0.0
        )


def shares(box: Clock, count: int) -> list[float]:
    with opened_checker(box, CHECKER) as share_of:  # type: ignore[arg-type]
        return [share_of(TEST, b"9" * 1000) for _ in range(count)]


def test_outputs_that_keep_the_checker_busy_are_wrong_when_its_time_is_spent():
    box = Clock(slow_s=9.0, expected_s=0.01)
    paid = shares(box, 30)
    assert sum(paid) * 9.0 <= MAX_CHECKING_S + 9.0
    assert paid[-20:] == [0.0] * 20
    assert box.calls.count("right") == 30 - sum(paid)


def test_a_checker_that_is_slow_by_itself_gives_no_verdict():
    with pytest.raises(VerifierFailure, match="also for expected outputs"):
        shares(Clock(slow_s=9.0, expected_s=8.0), 30)


def test_a_quick_checker_judges_every_output():
    assert shares(Clock(slow_s=0.1, expected_s=0.1), 200) == [1.0] * 200

"""The account of a program's tests: time, failures, and what they are worth."""

import pytest
from prolong.verifiers.programs.problem import CodeProblem, CodeTest
from prolong.verifiers.programs.tally import MAX_TIMEOUTS, MAX_TIMEOUTS_AT_FIRST, WALL_FACTOR, Tally, failure_of
from prolong.verifiers.sandbox.launcher import RunResult, RunStatus

THREE = [CodeTest(stdin="", stdout="2")] * 3


def result(cpu_s: float, stdout: bytes = b"2", status: str = "ok", seconds: float = 0.0, waited_s: float = 0.0) -> RunResult:
    return RunResult(
        status=RunStatus(status),
        code=0,
        stdout=stdout,
        stderr=b"a\nlast words",
        result=b"",
        seconds=seconds or cpu_s,
        cpu_s=cpu_s,
        waited_s=waited_s,
    )


def test_each_test_gets_what_the_ones_before_left():
    tally = Tally(CodeProblem(tests=THREE, time_limit_s=4.0, test_time_limit_s=3.0))
    limits = []
    for _ in THREE:
        limits.append(tally.limits(1))
        tally.add_run(result(1.5))
    assert [given.cpu_s for given in limits] == [3.0, 2.5, 1.0]
    assert all(given.wall_s <= 3.0 * WALL_FACTOR for given in limits)
    assert tally.out_of_time
    assert tally.score(3, {}).reward == 0.0


def test_the_time_that_a_program_waits_for_a_processor_is_not_its_own():
    tally = Tally(CodeProblem(tests=THREE, time_limit_s=4.0))
    tally.add_run(result(1.0, seconds=100.0, waited_s=98.0))
    assert not tally.out_of_time
    tally.add_run(result(1.0, seconds=100.0))
    assert tally.out_of_time


@pytest.mark.parametrize(
    ("limits", "of_a_test", "of_all"),
    [
        ({}, 6.0, 18.0),
        ({"time_limit_s": 5.0}, 5.0, 5.0),
        ({"test_time_limit_s": 2.0}, 2.0, 6.0),
        ({"test_time_limit_s": 9.0, "time_limit_s": 5.0}, 5.0, 5.0),
    ],
)
def test_limits_are_of_one_test_and_of_all(limits: dict, of_a_test: float, of_all: float):
    problem = CodeProblem(tests=THREE, **limits)
    assert (problem.test_limit_s, problem.total_limit_s) == (of_a_test, of_all)


def test_a_program_that_runs_into_its_limits_again_and_again_is_not_run_on_all_tests():
    for num_ended, most in ((0, MAX_TIMEOUTS_AT_FIRST), (1, MAX_TIMEOUTS)):
        tally = Tally(CodeProblem(tests=THREE * 10), num_ended=num_ended)
        for _ in range(most):
            assert tally.goes_on
            tally.add_run(result(6.0, status="timeout"))
        assert not tally.goes_on
        assert not tally.out_of_time


def test_the_first_failure_is_told_with_its_reason():
    tally = Tally(CodeProblem(tests=THREE))
    for number, why in enumerate(("", "wrong output", "wrong value")):
        tally.add_verdict(number, why, b"")
    assert tally.first_failure == "; test 1: wrong output"
    assert "error 0: last words" in failure_of(result(0.1, status="error"))


@pytest.mark.parametrize(
    ("passed", "outputs", "reward"),
    [
        ([1, 0, 1, 1], [b"YES", b"YES\n", b"YES", b"YES"], 0.0),
        ([1, 0, 1, 1], [b"YES", b"YES", b"YES", b"NO"], 0.75),
        ([1, 1, 1, 1], [b"YES"] * 4, 1.0),
        ([1, 0, 1, 1], [b"YES NO", b"YES  NO", b"\nYES\nNO", b"YES\tNO "], 0.0),
        ([1, 0, 1, 1], [b"YES", None, b"YES", b"YES"], 0.75),
        ([0, 0, 1, 1], [None, b"YES", b"YES", b"YES"], 0.0),
        ([1, 0], [b"odd", b"odd"], 0.5),
        ([1, 0, 0], [b"3", None, None], 1 / 3),
    ],
)
def test_a_constant_earns_nothing_where_it_is_wrong_once(passed: list[int], outputs: list[bytes | None], reward: float):
    tally = Tally(CodeProblem(tests=[CodeTest(stdin="", stdout="2")] * len(passed)))
    for number, (ok, output) in enumerate(zip(passed, outputs, strict=True)):
        tally.add_verdict(number, "" if ok else "wrong", output)
    assert tally.score(len(passed), {}).reward == pytest.approx(reward)

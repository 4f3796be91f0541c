"""Tests of programs in the forms of public sets, and the packed ones of LiveCodeBench, which are never unpickled."""

import base64
import json
import pickle
import zlib

import pytest
from prolong.verifiers.data import coding_tests
from prolong.verifiers.data.fields import LeftOut

CASES = [{"input": "1\n", "output": "2\n", "testtype": "stdin"}]


class Harmful:
    """Unpickling it would run a command."""

    def __reduce__(self):
        return (print, ("unpickled",))


def packed(value: object, protocol: int = 4) -> str:
    return base64.b64encode(zlib.compress(pickle.dumps(value, protocol=protocol))).decode()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("size", [0, 300, 70_000])
def test_private_tests_are_read_in_every_protocol(protocol: int, size: int) -> None:
    cases = [CASES[0] | {"input": "é" * size}]
    assert coding_tests.private_tests(packed(json.dumps(cases, ensure_ascii=False), protocol)) == cases


@pytest.mark.parametrize("value", [Harmful(), [json.dumps(CASES)], {"a": 1}, json.dumps(CASES).encode(), ("a", "b"), 7, None])
def test_any_other_object_is_refused_and_never_made(value: object, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(LeftOut, match="private tests"):
        coding_tests.private_tests(packed(value))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("value", ["no base64!", "AAAA", base64.b64encode(zlib.compress(b"x" * 100)[:-9]).decode()])
def test_damaged_private_tests_are_named(value: str) -> None:
    with pytest.raises(LeftOut, match="private tests"):
        coding_tests.private_tests(value)


def test_private_tests_that_grow_too_large_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coding_tests, "MAX_UNPACKED_BYTES", 1000)
    with pytest.raises(LeftOut, match="larger than"):
        coding_tests.private_tests(packed("[" + " " * 5000 + "]"))


def test_long_lists_of_tests_are_thinned_evenly_and_that_is_noted() -> None:
    numbers = [str(number) for number in range(1000)]
    tests = coding_tests.runs(numbers, numbers)
    kept = [int(test["stdin"]) for test in tests.answer["tests"]]
    assert len(kept) == coding_tests.MAX_TESTS
    assert (kept[0], kept[-1]) == (0, 980)
    assert tests.notes
    assert coding_tests.runs(numbers[:3], numbers[:3]).notes == ()
    large = ["x" * coding_tests.MAX_TEST_CHARS, "1"]
    assert [test["stdin"] for test in coding_tests.runs(large, large).answer["tests"]] == ["1"]
    with pytest.raises(LeftOut, match="every test is larger"):
        coding_tests.runs(large[:1], large[:1])


def test_arguments_and_values_are_read_as_the_sets_write_them() -> None:
    functional = [{"input": '[1, 2]\n"a"', "output": "[3]", "testtype": "functional"}]
    assert coding_tests.listed_tests(functional, "t", "f").answer["tests"] == [{"args": [[1, 2], "a"], "output": [3]}]
    called = [{"type": "function_call", "fn_name": "f", "input": [1, 2], "output": [3]}]
    assert coding_tests.listed_tests(called, "t").answer == {"function": "f", "tests": [{"args": [1, 2], "output": 3}]}
    wrapped = coding_tests.calls("f", [[4]], [[[4]]])
    assert wrapped.answer["tests"] == [{"args": [4], "output": [4]}]
    assert coding_tests.runs([["1", "2"]], [["3"]]).answer["tests"] == [{"stdin": "1\n2", "stdout": "3"}]


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("assert add(1) == 2", "add"),
        ("assert not odd(2)", "odd"),
        ("assert sorted(pick(2)) == [1]", "pick"),
        ("assert isinstance(make(), list)", "make"),
        ("def check(candidate):\n    assert candidate(1) == 2", ""),
        ("x = 1", ""),
    ],
)
def test_the_function_that_is_asserted_is_named(code: str, name: str) -> None:
    assert coding_tests.asserted_function(code) == name

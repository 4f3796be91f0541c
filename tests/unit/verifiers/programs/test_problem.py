"""Answer specifications: what is refused, and with which words."""

import pytest
from prolong.common.errors import DataError
from prolong.verifiers.programs.problem import problem_of

LINES = {"tests": [{"stdin": "1", "stdout": "2"}]}
ASSERTS = {"asserts": ["assert f(1) == 2"]}
CHECK = {"test_code": "def check(candidate):\n    assert candidate(1) == 2", "entry_point": "f"}
CHECKED = {"tests": [{"stdin": "1"}], "checker": {"source": "def check(input, output, expected): return True"}}


@pytest.mark.parametrize(
    "answer",
    [
        LINES,
        ASSERTS,
        CHECK,
        CHECKED,
        CHECK | {"entry_point": "Solution().add", "setup": "from typing import *"},
        CHECKED | {"language": "cpp", "std": "c++20"},
        LINES | {"checker": {"source": "int main() {}", "language": "cpp"}},
        LINES | {"time_limit_s": 300, "test_time_limit_s": 60, "rel_tol": 0, "abs_tol": 0},
        {"function": "f", "setup": "import math", "tests": [{"args": [], "output": None}]},
        {"test_code": "s = '\\d'\nassert f(s)"},
    ],
)
def test_every_form_is_accepted(answer: dict):
    problem_of(answer)


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        (LINES | ASSERTS, "in one form"),
        (ASSERTS | CHECK, "in one form"),
        ({"setup": "x = 1"}, "at least one test"),
        (ASSERTS | {"function": "f"}, "function 'f'"),
        (CHECKED | {"function": "f"}, "function 'f'"),
        (ASSERTS | {"entry_point": "f"}, "entry_point"),
        (ASSERTS | {"language": "cpp"}, "language python"),
        ({"tests": [{"stdin": "1"}]}, "stdin and stdout"),
        ({"asserts": ["assert f(1) =="]}, "asserts.0."),
        ({"test_code": "def check("}, "test_code"),
        (CHECK | {"setup": "from x import"}, "setup"),
        (CHECK | {"entry_point": "f; import os"}, "entry_point"),
        (CHECK | {"entry_point": "a.b.c"}, "entry_point"),
        (CHECKED | {"checker": {"source": "def check("}}, "checker"),
        (CHECKED | {"checker": {"source": "  "}}, "checker"),
        (CHECKED | {"checker": {"source": "x", "language": "rust"}}, "rust"),
        (LINES | {"std": "c++98"}, "std"),
        (LINES | {"time_limit_s": 301}, "time_limit_s = 301"),
        (LINES | {"test_time_limit_s": 61}, "test_time_limit_s = 61"),
        (LINES | {"test_time_limit_s": -1}, "test_time_limit_s"),
    ],
)
def test_what_cannot_be_judged_is_refused(answer: dict, word: str):
    with pytest.raises(DataError, match=word) as caught:
        problem_of(answer)
    assert "expected" in str(caught.value)

"""Extraction and answer specifications; programs run in tests/integration/test_code_problems.py."""

import pytest
from prolong.common.errors import DataError
from prolong.verifiers import code
from prolong.verifiers.api import Task
from prolong.verifiers.programs.blocks import code_block

FUNCTION = {"function": "f", "tests": [{"args": [1], "output": 2}]}
LINES = {"tests": [{"stdin": "1", "stdout": "2"}]}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("```python\nx = 1\n```", "x = 1\n"),
        ("```py\na\n```\n```python3\nb\n```", "b\n"),
        ("```\na\n```", "a\n"),
        ("```python\na\n```\nIt prints\n```\n3\n```", "a\n"),
        ("```python\na\n```\n```text\n3\n```\n```cpp\nint\n```", "a\n"),
        ("  ```Python  \n  a\n  ```", "a\n"),
        ("```python\na\n```python\nb\n```", "b\n"),
        ("```python\n```", ""),
        ("```python\na", None),
        ("x = 1", None),
        ("```java\na\n```", None),
        ("`x`", None),
        ('```python title="a.py"\na\n```', "a\n"),
        ("````python\na\n````", "a\n"),
        ("````markdown\n```python\nb\n```\n````", None),
        ("````python\ns = '''\n```\n'''\n````", "s = '''\n```\n'''\n"),
    ],
)
def test_the_last_closed_block_of_the_language_counts(text: str, found: str | None):
    assert code_block(text, "python") == found


def test_extraction_is_linear():
    assert code_block("```python\n" * 100_000, "python") is None
    assert code_block("```" * 300_000, "python") is None
    assert code_block("```python\n" + "``\n" * 100_000 + "```", "python") == "``\n" * 100_000


def test_only_what_follows_the_thinking_counts():
    block = "```python\nprint(1)\n```"
    inside = code.CODE.quick(Task(completion=f"<think>{block}</think>", answer=LINES))
    still_open = code.CODE.quick(Task(completion=block, answer=LINES, thinking_open=True))
    for score in (inside, still_open):
        assert score is not None
        assert (score.reward, score.status) == (0.0, "no_answer")
    assert code.CODE.quick(Task(completion=f"<think></think>{block}", answer=LINES)) is None


def test_c_plus_plus_has_tags_of_its_own():
    for tag in ("cpp", "c++", "C++", "cc"):
        assert code_block(f"```{tag}\nint\n```", "cpp") == "int\n"
    assert code_block("```python\nint\n```", "cpp") is None


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        ({}, "tests"),
        ({"tests": []}, "at least one test"),
        ({"tests": [{"args": [1], "output": 2}]}, "stdin and stdout"),
        (FUNCTION | LINES, "args and output"),
        ({"function": "f", "tests": [{"args": [1]}]}, "args and output"),
        ({"function": "f", "tests": [{"output": 1}]}, "args and output"),
        ({"tests": [{"stdin": "1"}]}, "stdin and stdout"),
        ({"tests": [{"stdin": 1, "stdout": "1"}]}, "str"),
        (LINES | {"language": "rust"}, "rust"),
        (LINES | {"reward": "most"}, "most"),
        (LINES | {"time_limit": 3}, "time_limit"),
        (LINES | {"time_limit_s": 0}, "time_limit_s = 0"),
        (LINES | {"time_limit_s": 1e9}, "time_limit_s"),
        (LINES | {"memory_mb": 1 << 20}, "memory_mb"),
        (LINES | {"rel_tol": -1.0}, "not negative"),
        (FUNCTION | {"language": "cpp"}, "language python"),
    ],
)
def test_a_problem_that_cannot_be_judged_is_refused_with_what_was_expected(answer: dict, word: str):
    with pytest.raises(DataError, match=word) as caught:
        code.CODE.check(answer)
    assert "expected" in str(caught.value)


def test_problems_of_every_kind_are_accepted():
    null = {"function": "f", "tests": [{"args": [], "output": None}]}
    for answer in (FUNCTION, LINES, null, LINES | {"language": "cpp", "reward": "all", "compare": "tokens", "abs_tol": 0.1}):
        code.CODE.check(answer)

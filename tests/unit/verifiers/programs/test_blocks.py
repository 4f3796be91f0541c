"""The block that counts, among several. Basics are in test_code.py."""

import pytest
from prolong.verifiers.programs.blocks import code_block

READS = "n = int(input())\nprint(n)\n"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("~~~python\na\n~~~", "a\n"),
        ("~~~\na\n~~~", "a\n"),
        ('~~~~py\ns = "~~~"\n~~~\n~~~~', 's = "~~~"\n~~~\n'),
        ("~~~python\n```\na\n```\n~~~", "```\na\n```\n"),
        ("```python\n~~~\na\n~~~\n```", "~~~\na\n~~~\n"),
        ("~~~python\na\n```", None),
        ("1. So:\n   ```python\n   def f():\n       return 1\n   ```", "def f():\n    return 1\n"),
        ("   ```python\na = 1\n   b = 2\n   ```", "a = 1\nb = 2\n"),
        ("```{.python}\na\n```", "a\n"),
        ("``` python\na\n```", "a\n"),
        ("```Python3\na\n```", "a\n"),
        ("```python:main.py\na\n```", "a\n"),
        ("```python{1,2}\na\n```", "a\n"),
        ("```python\r\na\r\n```\r\n", "a\r\n"),
        ("```pythonic\na\n```", None),
        ("```python\na\n```\nand then\n```python\nb", "a\n"),
        ("```print(1)```\n```python\na\n```", "a\n"),
        ("```java\na\n```\n```python\nb\n```", "b\n"),
        ("~~~cpp\na\n~~~", None),
    ],
)
def test_fences_are_those_of_markdown(text: str, found: str | None):
    assert code_block(text, "python") == found


def fenced(*programs: str, tag: str = "python") -> str:
    return "\n".join(f"```{tag}\n{program}\n```" for program in programs)


ADD, MORE = "def add(a, b):\n    return a + b", "def add(a, b):\n    return b + a"


@pytest.mark.parametrize(
    ("programs", "defines", "found"),
    [
        ((ADD, "print(add(1, 2))"), "add", ADD),
        ((ADD, MORE), "add", MORE),
        ((ADD, "assert add(1, 2) == 3", "x = add"), "add", ADD),
        (("def added(a): return 1", "def add2(a): return 1"), "add", "def add2(a): return 1"),
        (("add = lambda a, b: a + b", "print(add(1, 2))"), "add", "add = lambda a, b: a + b"),
        (("class Solution:\n    def add(self, a, b):\n        return a + b", "print(Solution().add(1, 2))"), "add", 0),
        (
            ("class Solution:\n    def add(self, a, b):\n        return a + b", "print(Solution().add(1, 2))"),
            "Solution().add",
            0,
        ),
        (("class Counter:\n    pass", "print(Counter())"), "Counter.count", 0),
        (("async def add(a): ...", "add(1)"), "add", 0),
        (("print(1)", "print(2)"), "add", 1),
    ],
)
def test_the_last_block_that_defines_what_the_tests_call_counts(programs: tuple[str, ...], defines: str, found: str | int):
    wanted = programs[found] if isinstance(found, int) else found
    assert code_block(fenced(*programs), "python", defines=defines) == wanted + "\n"


@pytest.mark.parametrize(
    ("programs", "found"),
    [
        ((READS, "1 2"), 0),
        ((READS, "print(7)"), 0),
        ((READS, READS + "x = 1"), 1),
        (("import sys\nprint(sys.stdin.read())", "main()"), 0),
        (("import os\nos.read(0, 9)", "print(1)"), 0),
        (("print(1)", "print(2)"), 1),
        (("data = open(0).read()", "solve([1, 2])"), 0),
    ],
)
def test_a_block_that_reads_input_counts_where_the_tests_give_one(programs: tuple[str, ...], found: int):
    assert code_block(fenced(*programs), "python", reads=True) == programs[found] + "\n"
    assert code_block(fenced(*programs), "python", reads=False) == programs[-1] + "\n"


def test_a_block_of_c_plus_plus_has_a_main_function():
    programs = ("int add(int a, int b);", "int main() { return 0; }", "add(1, 2);")
    assert code_block(fenced(*programs, tag="cpp"), "cpp", reads=True) == programs[1] + "\n"
    assert code_block(fenced(*programs, tag="c++17"), "cpp") == programs[1] + "\n"


def test_tagged_blocks_come_before_others():
    text = fenced(ADD) + "\n" + fenced("def add(a, b): return 9", tag="")
    assert code_block(text, "python", defines="add") == ADD + "\n"
    assert code_block(fenced("print(add(1, 2))") + "\n" + fenced(ADD, tag=""), "python", defines="add") == ADD + "\n"

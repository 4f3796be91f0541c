"""Assertions, test scripts and checkers in the real sandbox: what they pay, and that no forgery is paid.

f(n) = 7 n + 1000003, as in tests/support/forgeries.py. The programs never share a process with the code that tests them.
"""

import bisect

import pytest
from prolong.common.errors import VerifierFailure
from prolong.verifiers.sandbox.outputs import plain_json

from tests.support.forgeries import FORGERIES
from tests.support.sandboxes import judge

pytestmark = pytest.mark.usefixtures("in_box")
VALUES = [(n, 7 * n + 1000003) for n in (1, 2, 3)]
LIMIT = {"test_time_limit_s": 1.0}
STYLES = {
    "assertions": {"asserts": [f"assert f({n}) == {value}" for n, value in VALUES]},
    "check": {
        "entry_point": "f",
        "test_code": "def check(candidate):\n" + "".join(f"    assert candidate({n}) == {value}\n" for n, value in VALUES),
    },
    "pytest": {
        "test_code": "from solution import f\n"
        + "".join(f"def test_{n}():\n    assert f({n}) == {value}\n" for n, value in VALUES)
    },
    "a script": {"test_code": "def check_f():\n    for n in (1, 2, 3):\n        assert f(n) == 7 * n + 1000003\ncheck_f()\n"},
}


@pytest.mark.parametrize("style", STYLES)
def test_every_style_pays_what_is_right(style: str):
    answer = STYLES[style] | LIMIT
    assert judge("def f(n): return 7 * n + 1000003", answer).reward == 1.0
    assert judge("def f(n): return 7 * n + 1000003 + (n == 2)", answer).reward < 1.0
    for wrong in ("def f(n): return None", "def g(n): return 7 * n + 1000003", "def f(:", "", "def f(n): raise AssertionError"):
        assert judge(wrong, answer).reward == 0.0


def answering(text: str) -> str:
    """A program that writes the answer itself, in the place of the judge's code beside it."""
    return f"import os\ndef f(n):\n    os.write(4, {text.encode()})\n    os._exit(0)"


MORE_FORGERIES = {
    "is an object that passes for anything": """
        class Any:
            def __getattr__(self, name): return self
            def __call__(self, *a, **k): return self
            def __eq__(self, other): return True
            def __bool__(self): return True
            def __lt__(self, other): return True
            def __contains__(self, other): return True
            def __sub__(self, other): return self
            def __rsub__(self, other): return self
            def __abs__(self): return self
            __hash__ = None
        f = Any()
        def f(n): return Any()
        """,
    "stops the loop of the test": "def f(n): raise StopIteration",
    "raises what the test may catch": "def f(n): raise SystemExit(0)",
    "says that it is an object of the judge's": answering('[{"value": {"handle": 0}, "objects": []}]'),
    "answers with another form of answer": answering('[{"passed": true, "state": "passed", "raised": []}]'),
    "answers with tags that nobody knows": answering('[{"value": {"eval": "1"}, "objects": [["object", {"__class__": 1}]]}]'),
    "answers with two values": answering('[{"value": 1, "objects": []}, {"value": 1000010, "objects": []}]'),
    "answers with a deep value": """
        import os
        def f(n):
            rest = b'[{"objects": [], "value": ' + b'[' * 50000 + b']' * 50000 + b'}]'
            while rest: rest = rest[os.write(4, rest):]
            os._exit(0)
        """,
    "replaces what the judge runs": """
        import sys
        for name, module in list(sys.modules.items()):
            if name.startswith('prolong'):
                for key in list(vars(module)):
                    if callable(vars(module)[key]): vars(module)[key] = lambda *a, **k: True
        def f(n): return True
        """,
    "defines the helpers of the tests": """
        def abs(x): return 0
        def len(x): return 0
        def sorted(x): return []
        def all(x): return True
        def close(a, b): return True
        def check(candidate): return None
        def check_f(): return None
        def f(n): return 0
        """,
    "looks for the tests": """
        import gc, sys
        def f(n):
            for name in list(sys.modules):
                if 'tester' in name or 'tests' in name: return 1000010
            for one in gc.get_objects():
                if isinstance(one, str) and 'assert' in one and '10000' in one: return 1000010
            return 0
        """,
}


def is_read(depth: int) -> bool:
    try:
        return bool(plain_json(b"[" * depth + b"1" + b"]" * depth))
    except ValueError:
        return False


@pytest.mark.parametrize("test_code", ["assert f(1) == 3", "assert g(f(1)) == 3", "assert f(f(1)) == 3"])
def test_an_answer_of_any_depth_is_a_wrong_one(test_code: str):
    """The judge itself must not raise: Python reads some that it cannot write from a few calls further on."""
    deepest = bisect.bisect(range(5000), False, key=lambda depth: not is_read(depth))
    for depth in (100, *range(deepest - 40, deepest + 2, 2), 5000):
        nested = "[" * depth + "]" * depth
        program = answering(f'[{{"objects": [], "changed": {{"value": [], "objects": []}}, "value": {nested}}}]')
        assert judge(f"def g(x): return 2\n{program}", {"test_code": test_code} | LIMIT).reward == 0.0, depth


ALMOST = {"counts up over calls", "returns a float of that value"}  # right once; right as Python's == has it


@pytest.mark.parametrize("style", STYLES)
def test_forgeries_earn_nothing_in_any_style(style: str):
    for name, program in (FORGERIES | MORE_FORGERIES).items():
        score = judge(program, STYLES[style] | LIMIT)
        assert score.reward == 0.0 or (name in ALMOST), (name, score)
        assert score.reward < 0.4 or name == "returns a float of that value", (name, score)


WEAK = {  # test code that a program in the same process could satisfy with a suitable object
    "truth": "assert f(1)",
    "membership": "assert 1000010 in f(1)",
    "order": "assert f(1) > 1000009",
    "nearness": "def close(a, b):\n    return abs(a - b) < 1e-6\nassert close(f(1), 1000010)",
    "a loop": "assert all(map(lambda n: f(n) == 7 * n + 1000003, [1, 2]))",
    "a map": "assert all(map(f, [1, 2])) and list(map(f, [1, 2])) == [1000010, 1000017]",
    "unequal": "assert not f(1) != 1000010",
    "a set": "assert {f(1)} == {1000010}",
    "a dictionary": "assert {1000010: 1}[f(1)]",
}


@pytest.mark.parametrize("name", WEAK)
def test_an_object_of_the_programs_own_satisfies_no_test(name: str):
    answer = {"test_code": WEAK[name]} | LIMIT
    for forgery in ("is an object that passes for anything", "stops the loop of the test", "defines the helpers of the tests"):
        assert judge(MORE_FORGERIES[forgery], answer).reward == 0.0, forgery
    right = "def f(n): return 7 * n + 1000003"
    assert judge(right if name != "membership" else "def f(n): return [7 * n + 1000003]", answer).reward == 1.0


STACK = """
    class Stack:
        def __init__(self, items=()): self.items = list(items)
        def push(self, x): self.items.append(x); return self
        def pop(self):
            if not self.items: raise Empty("no items")
            return self.items.pop()
        def __len__(self): return len(self.items)
        def __eq__(self, other): return self.items == other.items
        def __str__(self): return f"Stack({self.items})"
        def __iter__(self): return iter(self.items)
        def __getitem__(self, i): return self.items[i]
    class Empty(Exception): pass
    """
NODES = """
class ListNode:
    def __init__(self, val=0, next=None):
        self.val = val
        self.next = next
def linked(values):
    head = None
    for value in reversed(values):
        head = ListNode(value, head)
    return head
def values(node):
    found = []
    while node:
        found.append(node.val)
        node = node.next
    return found
"""
REVERSE = """
    class Solution:
        def reverse(self, head: Optional[ListNode]) -> Optional[ListNode]:
            last = None
            while head:
                head.next, last, head = last, head, head.next
            return last
    """
RIGHT = {  # answer, right program, wrong program
    "objects": (
        {"test_code": "s = Stack()\ns.push(1)\ns.push(2).push(3)\nassert s.pop() == 3\nassert s.pop() == 2\n"
         "assert len(s) == 1"},
        STACK,
        STACK.replace("items.pop()", "items.pop(0)"),
    ),
    "objects in functions": (
        {"test_code": "def test_it():\n    s = Stack([1, 2])\n    assert str(s) == 'Stack([1, 2])'\n"
         "    assert list(s) == [1, 2]\n"},
        STACK,
        STACK.replace("list(items)", "list(items)[::-1]"),
    ),
    "objects that are equal": (
        {"asserts": ["assert Stack([1]) == Stack([1])", "assert Stack([1])[0] == 1",
                     "assert not (Stack([1]) == Stack([2]))"]},
        STACK,
        STACK.replace("self.items == other.items", "False"),
    ),
    "an exception of its own": (
        {"test_code": "import pytest\nfrom solution import Stack, Empty\ndef test_it():\n"
         "    with pytest.raises(Empty, match='no'):\n        Stack().pop()\n"},
        STACK,
        STACK.replace('raise Empty("no items")', "return None"),
    ),
    "an exception of Python's": (
        {"test_code": "import pytest\ndef test_it():\n    with pytest.raises(ZeroDivisionError):\n        f(0)\n"},
        "def f(n): return 1 / n",
        "def f(n): return 1 / n if n else None",
    ),
    "fixtures and parameters": (
        {"test_code": "import pytest\n@pytest.fixture\ndef base(): return 10\n"
         "@pytest.mark.parametrize('n, value', [(1, 11), (2, 12)])\ndef test_it(base, n, value):\n"
         "    assert f(base, n) == value\n"},
        "def f(a, b): return a + b",
        "def f(a, b): return a - b",
    ),
    "unittest": (
        {"test_code": "import unittest\nfrom solution import f\nclass TestF(unittest.TestCase):\n"
         "    def setUp(self): self.n = 3\n    def test_it(self):\n        self.assertEqual(f(self.n), 9)\n"
         "if __name__ == '__main__':\n    unittest.main()\n"},
        "def f(n): return n * n",
        "def f(n): return n + n",
    ),
    "linked lists": (
        {"test_code": "def check(candidate):\n    assert values(candidate(head = linked([1, 2, 3]))) == [3, 2, 1]\n"
         "    assert values(candidate(head = linked([]))) == []\n", "entry_point": "Solution().reverse", "setup": NODES},
        REVERSE,
        REVERSE.replace("return last", "return head"),
    ),
    "a long linked list": (
        {"asserts": ["assert values(reverse(linked(list(range(20000))))) == list(range(20000))[::-1]"], "setup": NODES},
        REVERSE,
        REVERSE.replace("return last", "return head"),
    ),
    "an argument that is changed": (
        {"test_code": "def check(candidate):\n    a = [3, 1, 2]\n    candidate(a)\n    assert a == [1, 2, 3]\n",
         "entry_point": "f"},
        "def f(a): a.sort()",
        "def f(a): return sorted(a)",
    ),
    "tuples are no lists": (
        {"asserts": ["assert f(3) == (3, 4)"]},
        "def f(n): return n, n + 1",
        "def f(n): return [n, n + 1]",
    ),
    "sets": ({"asserts": ["assert f([3, 1, 3]) == {1, 3}"]}, "def f(xs): return set(xs)", "def f(xs): return sorted(set(xs))"),
    "large integers": (
        {"asserts": ["assert f(20000) == 2 ** 20000"]},
        "def f(n): return 2 ** n",
        "def f(n): return 2 ** n + 1",
    ),
    "infinity and complex numbers": (
        {"asserts": ["assert f(0) == float('inf')", "assert f(1) == 1j", "assert f(2) == b'x'"]},
        "def f(n): return (float('inf'), 1j, b'x')[n]",
        "def f(n): return (1e308, 1.0, 'x')[n]",
    ),
    "a name of Python's own": (
        {"asserts": ["assert sum(10, 15) == 25", "assert sum(1, 2) == 3"]},
        "def sum(a, b): return a + b",
        "def sum(a, b): return a - b",
    ),
    "a name that others import": (
        {"asserts": ["assert factorial(3) == 106", "assert factorial(4) == 124"]},
        "def factorial(n): return math.factorial(n) + 100",
        "x = 1",
    ),
    "a reference solution": (
        {"test_code": "def ref(a, b):\n    return a + b\nfor a in range(5):\n    assert add(a, 2) == ref(a, 2)\n"},
        "def add(a, b): return a + b",
        "def add(a, b): return a - b",
    ),
    "a call at the end": (
        {"test_code": "METADATA = {}\ndef check(candidate):\n    assert candidate(2) == 4\ncheck(f)\n", "entry_point": "f"},
        "def f(n): return n * n",
        "def f(n): return n",
    ),
    "numbers of numpy": (
        {"asserts": ["assert f(3) == [0, 1, 2]", "assert f(0) == []"]},
        "import numpy as np\ndef f(n): return np.arange(n)",
        "import numpy as np\ndef f(n): return np.arange(n + 1)",
    ),
    "pytest.approx": (
        {"test_code": "import pytest\ndef test_it():\n    assert f(.1, .2) == pytest.approx(.3)\n"
         "    assert f(1, 1) == pytest.approx(2)\n"},
        "def f(a, b): return a + b",
        "def f(a, b): return a + b + 1e-3",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", RIGHT)
def test_test_code_of_every_kind_tells_right_from_wrong(name: str):
    answer, right, wrong = RIGHT[name]
    score = judge(right, answer)
    assert score.reward == 1.0, score
    assert judge(wrong, answer).reward < 1.0


def test_a_share_of_the_assertions_is_paid():
    assert judge("def f(n): return 7 * n + 1000003 if n < 3 else None", STYLES["check"]).reward == pytest.approx(2 / 3)
    assert judge("def f(n): return 7 * n + 1000003 if n < 3 else None", STYLES["check"] | {"reward": "all"}).reward == 0.0


@pytest.mark.parametrize(
    "test_code", ["x = 1", "assert True", "1 / 0", "import no_such_thing.deep", "def test_it():\n    pass"]
)
def test_test_code_that_never_asks_the_program_gives_no_verdict(test_code: str):
    with pytest.raises(VerifierFailure, match="test code is no test"):
        judge("def f(n): return n", {"test_code": test_code})


def test_a_value_that_stalls_the_test_is_a_wrong_one(monkeypatch: pytest.MonkeyPatch):
    from prolong.verifiers.programs import scripts

    monkeypatch.setattr(scripts, "TESTER_LIMITS", scripts.Limits(cpu_s=2, wall_s=20, memory_mb=512))
    answer = {"asserts": ["assert f(1) == 1", "assert [i for i in range(f(2))] == [0, 1]"]}
    assert judge("def f(n): return n", answer).reward == 1.0
    assert judge("def f(n): return n if n < 2 else 10 ** 12", answer).reward == 0.5


PAIR = {
    "tests": [{"stdin": "4\n", "stdout": "1 3\n"}, {"stdin": "7\n", "stdout": "3 4\n"}, {"stdin": "9\n", "stdout": "4 5\n"}]
}
CHECKERS = {
    "function": {
        "source": "def check(input, output, expected):\n    a, b = map(int, output.split())\n"
        "    return a + b == int(input) and a > 0 < b"
    },
    "script": {
        "source": "import sys\ntask, expected, output = (open(path).read() for path in sys.argv[1:4])\n"
        "a, b = map(int, output.split())\nassert sum(map(int, expected.split())) == int(task)\n"
        "print(int(a + b == int(task) and a > 0 < b))"
    },
    "testlib": {
        "language": "cpp",
        "source": """#include <cstdio>
            int main(int, char** path) {
              FILE *in = fopen(path[1], "r"), *out = fopen(path[2], "r"), *expected = fopen(path[3], "r");
              int sum, a, b, x, y;
              if (fscanf(in, "%d", &sum) != 1 || fscanf(expected, "%d %d", &x, &y) != 2 || x + y != sum) return 3;
              if (fscanf(out, "%d %d", &a, &b) != 2) return 2;
              return a + b == sum && a > 0 && b > 0 ? 0 : 1;
            }""",
    },
}  # fmt: skip


@pytest.mark.parametrize("name", CHECKERS)
def test_a_checker_judges_where_more_than_one_output_is_right(name: str):
    answer = PAIR | {"checker": CHECKERS[name]}
    for right in ("n = int(input())\nprint(1, n - 1)", "n = int(input())\nprint(n - 2, 2)"):
        assert judge(right, answer).reward == 1.0
    assert judge("n = int(input())\nprint(3, n - 3) if n != 7 else print(7, 7)", answer).reward == pytest.approx(2 / 3)
    for wrong in ("n = int(input())\nprint(0, n)", "print('x')", "print()", "print(1)", "raise SystemExit(3)"):
        assert judge(wrong, answer).reward == 0.0, wrong


FORGED_OUTPUTS = (
    "print('1')",
    "print('1 3\\n1')",
    "print('points 1')",
    "print('true')",
    "import os\nos.write(4, b'true')\nos._exit(0)",
    "import sys\nprint(open('/scratch/expected.txt').read())",
    "import glob\nprint(*[open(path).read() for path in glob.glob('/scratch/*') + glob.glob('/tmp/*/expected.txt')])",
    "print('\\x00' * 60000)",
    "import sys\nsys.stdout.buffer.write(b'\\xff' * 1000)",
    "print('[' * 60000)",
)


@pytest.mark.parametrize("name", CHECKERS)
def test_no_output_forges_a_checkers_verdict(name: str):
    for program in FORGED_OUTPUTS:
        score = judge(program, PAIR | {"checker": CHECKERS[name]})
        assert score.reward == 0.0, (program, score)


@pytest.mark.parametrize(
    "checker",
    [
        {"source": "def check(input, output, expected):\n    raise ValueError"},
        {"source": "def check(input, output, expected):\n    return 'yes'"},
        {"source": "def check(input, output, expected):\n    return 100"},
        {"source": "print('maybe')"},
        {"source": "import sys\nsys.exit(1)"},
        {"source": "int main() { return 3; }", "language": "cpp"},
        {"source": "#include <testlib.h>\nint main() {}", "language": "cpp"},
    ],
)
def test_a_checker_that_fails_gives_no_verdict(checker: dict):
    with pytest.raises(VerifierFailure, match="checker"):
        judge("n = int(input())\nprint(1, n - 1)", PAIR | {"checker": checker})


def test_a_checker_may_pass_a_test_in_part():
    half = {"source": "def check(input, output, expected):\n    return 0.5 if output != expected else 1"}
    assert judge("n = int(input())\nprint(1, n - 1)", PAIR | {"checker": half}).reward == pytest.approx(2 / 3)


STANDARDS = {  # a program, and the standard that has what it uses
    "ranges": ('#include <algorithm>\nint main() { int v[] = {3, 4}; std::ranges::sort(v); puts(v[0] == 3 ? "3" : ""); }', 20),
    "contains": ('#include <string>\nint main() { puts(std::string("ab").contains(\'b\') ? "3" : ""); }', 23),
    "int128": ('#include <cstdio>\nint main() { __int128 x = 3; printf("%d", (int)x); }', 11),
}


@pytest.mark.parametrize("name", STANDARDS)
def test_c_plus_plus_of_every_standard_compiles(name: str):
    program, since = STANDARDS[name]
    program = "#include <cstdio>\n" + program
    answer = {"language": "cpp", "tests": [{"stdin": "", "stdout": "3"}]}
    assert judge(program, answer, "cpp").reward == 1.0
    stated = judge(program, answer | {"std": "c++17"}, "cpp")
    assert (stated.reward, "does not compile" in stated.detail) == (float(since <= 17), since > 17)

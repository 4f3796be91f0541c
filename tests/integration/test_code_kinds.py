"""Right programs in many manners, each beside a near miss that earns nothing: input, output, values, names, layout."""

import pytest

from tests.support.sandboxes import judge

pytestmark = pytest.mark.usefixtures("in_box")
SUM = {"tests": [{"stdin": "1 2\n", "stdout": "3\n"}, {"stdin": "10 -4\n", "stdout": "6\n"}]}
READ_INPUT = {
    "readlines": "import sys\na, b = map(int, sys.stdin.readlines()[0].split())\nprint(a + b)",
    "a short name for readline": "import sys\ninput = sys.stdin.readline\na, b = map(int, input().split())\nprint(a + b)",
    "from sys import": "from sys import stdin, stdout\na, b = map(int, stdin.readline().split())\nstdout.write(f'{a + b}\\n')",
    "fileinput": "import fileinput\nfor line in fileinput.input():\n    print(sum(map(int, line.split())))",
    "a generator of words": "import sys\nit = iter(sys.stdin.read().split())\nprint(int(next(it)) + int(next(it)))",
    "StringIO": "import io, sys\nsys.stdin = io.StringIO(sys.stdin.read())\nprint(sum(map(int, input().split())))",
    "BytesIO": "import io, os\nline = io.BytesIO(os.read(0, 99)).readline\nprint(sum(map(int, line().split())))",
    "open(0)": "with open(0) as f:\n    print(sum(map(int, f.read().split())))",
    "numpy": "import sys\nimport numpy as np\nprint(int(np.array(sys.stdin.read().split(), dtype=np.int64).sum()))",
    "a buffer for output": "import io, sys\nout = io.StringIO()\nprint(sum(map(int, input().split())), file=out)\n"
    "sys.stdout.write(out.getvalue())",
    "a prompt on standard error": "import sys\nprint('give', file=sys.stderr)\nprint(sum(map(int, input().split())))",
    "quit": "print(sum(map(int, input().split())))\nquit()",
    "sys.exit(0)": "import sys\nprint(sum(map(int, input().split())))\nsys.exit(0)",
    "a thread with a larger stack": "import sys, threading\nsys.setrecursionlimit(10 ** 6)\nthreading.stack_size(1 << 26)\n"
    "def main(): print(sum(map(int, input().split())))\nt = threading.Thread(target=main)\nt.start()\nt.join()",
    "names that are not imported": "print(reduce(operator.add, map(int, sys.stdin.readline().split())))",
    "a walrus": "print(sum(n) if (n := list(map(int, input().split()))) else 0)",
}  # fmt: skip


@pytest.mark.parametrize("name", READ_INPUT)
def test_input_may_be_read_in_any_manner(name: str):
    assert judge(READ_INPUT[name], SUM).reward == 1.0
    assert judge(READ_INPUT[name].replace("print(", "print(1 + ").replace("{a + b}", "{a - b}"), SUM).reward == 0.0


ENDS_BADLY = (
    "1 / 0",
    "raise SystemExit(1)",
    "import sys\nsys.exit('no')",
    "assert False",
    "import os\nos.abort()",
    "undefined",
)


@pytest.mark.parametrize("ending", ENDS_BADLY)
def test_a_program_that_ends_badly_has_not_solved_it(ending: str):
    assert judge(f"print(sum(map(int, input().split())))\n{ending}", SUM).reward == 0.0


def returns(value: object, *args: object) -> dict:
    return {"function": "f", "tests": [{"args": list(args), "output": value}]}


VALUES = {  # what is expected, right programs, wrong ones
    "an integer": (3, ("return 3", "import numpy as np\n    return np.int64(3)", "return Fraction(6, 2)",
        "return Decimal('3')"),
                   ("return 3.0", "return '3'", "return [3]", "return 4", "return True", "return None",
                       "return Fraction(7, 2)")),
    "one": (1, ("return 1", "import numpy as np\n    return np.array(1)"), ("return True", "return 1.0", "return '1'")),
    "a float": (2.5, ("return 2.5", "return Fraction(5, 2)", "import numpy as np\n    return np.float32(2.5)",
        "return 2.4999999",
                      "return Decimal('2.5')"), ("return 2.501", "return '2.5'", "return 2", "return None", "return [2.5]")),
    "a whole float": (2.0, ("return 2", "return 2.0000001"), ("return True", "return 2.001", "return '2'")),
    "a truth value": (True, ("return True", "import numpy as np\n    return np.bool_(1)"), ("return 1",
        "return 'True'", "return 1.0")),
    "a list": ([1, 2], ("return [1, 2]", "return (1, 2)", "import numpy as np\n    return np.array([1, 2])",
                        "import numpy as np\n    return [np.int64(1), np.int32(2)]"),
               ("return [2, 1]", "return {1, 2}", "return [1.0, 2.0]", "return '[1, 2]'", "return [1, 2, 3]",
                   "return deque([1, 2])",
                "return range(1, 3)", "yield from (1, 2)")),
    "a list of one": ([4], ("return [4]",), ("return 4", "return [[4]]")),
    "lists of floats": ([[0.1, 0.2], [0.3]], ("return [[.1, .2], [.1 + .2]]", "return [(.1, .2), [.3]]"),
        ("return [[.1, .2], [.4]]",)),
    "an object": ({"1": 2}, ("return {'1': 2}", "return {1: 2}", "return Counter([1, 1])", "return OrderedDict({'1': 2})"),
                  ("return {'1': 3}", "return [[1, 2]]", "return {1: 2, 2: 0}")),
    "nothing": (None, ("return None", "pass"), ("return 0", "return ''", "return []")),
    "a text": ("ab", ("return 'ab'", "return ''.join(['a', 'b'])"), ("return 'ab '", "return ['a', 'b']",
        "return b'ab'", "return 'AB'")),
    "a large integer": (10**30 + 1, ("return 10 ** 30 + 1",), ("return 10 ** 30", "return 1e30", "return float(10 ** 30 + 1)")),
    "lists in lists": ([[[]], [[1], []]], ("return [[[]], [[1], []]]", "return (((),), ((1,), ()))"),
        ("return [[], [[1], []]]",)),
}  # fmt: skip


@pytest.mark.parametrize("name", VALUES)
def test_values_are_those_of_python_in_json(name: str):
    expected, right, wrong = VALUES[name]
    for body in right:
        score = judge(f"def f():\n    {body}", returns(expected))
        assert score.reward == 1.0, (body, score)
    for body in wrong:
        assert judge(f"def f():\n    {body}", returns(expected)).reward == 0.0, body


PRELUDE = {
    "List": "class Solution:\n    def f(self, xs: List[int]) -> Optional[int]:\n        return sum(xs)",
    "Dict and Tuple": "def f(xs: Tuple[int, ...]) -> 'Dict[str, Any]':\n    return sum(xs)",
    "deque": "def f(xs):\n    q = deque(xs)\n    return sum(q)",
    "defaultdict": "def f(xs):\n    d = defaultdict(int)\n    for x in xs: d[0] += x\n    return d[0]",
    "heapq": "def f(xs):\n    heapq.heapify(xs)\n    heappush(xs, 0)\n    return sum(xs)",
    "itertools": "def f(xs):\n    return list(accumulate(xs))[-1] + len(list(itertools.chain()))",
    "functools": "@lru_cache(None)\ndef g(x): return x\n@cache\ndef h(x): return x\n"
    "def f(xs):\n    return functools.reduce(lambda a, b: g(a) + h(b), xs)",
    "math": "def f(xs):\n    return math.gcd(0, sum(xs)) + floor(0.5) + (0 if inf > 1 else 1)",
    "bisect": "def f(xs):\n    return sum(xs) + bisect_left([], 1) + bisect.bisect([], 1)",
    "pow stays Python's": "def f(xs):\n    return pow(3, 2, 7) + sum(xs) - 2",
    "nodes": "def f(xs):\n    return ListNode(sum(xs)).val + TreeNode().val",
    "string and re": "def f(xs):\n    return sum(xs) + len(re.findall('x', string.digits)) + len(ascii_lowercase) - 26",
    "future import": "from __future__ import annotations\ndef f(xs: List[Nothing]) -> Nobody:\n    return sum(xs)",
}  # fmt: skip


@pytest.mark.parametrize("name", PRELUDE)
def test_the_usual_names_need_no_import(name: str):
    assert judge(PRELUDE[name], returns(6, [1, 2, 3])).reward == 1.0
    assert judge(PRELUDE[name], returns(7, [1, 2, 3])).reward == 0.0


@pytest.mark.parametrize("body", ["return total(xs)", "return np.sum(xs)", "return e", "return f_"])
def test_other_names_do(body: str):
    assert judge(f"def f(xs): {body}", returns(6, [1, 2, 3])).reward == 0.0


def test_a_name_that_others_import_is_no_function_of_the_programs():
    assert judge("x = 1", {"function": "gcd", "tests": [{"args": [4, 6], "output": 2}]}).reward == 0.0


def test_lines_of_errors_are_the_programs_own():
    score = judge("def f(xs):\n    return 1 / 0", returns(1, []))
    assert "ZeroDivisionError" in score.detail
    assert judge("x = 1\nx +", SUM).detail.count("SyntaxError") == 1


DIGITS = {"tests": [{"stdin": "20000\n", "stdout": f"{'1' + '0' * 5000}\n"}]}


def test_integers_of_any_length_are_printed_and_read():
    assert judge("n = int(input())\nprint(10 ** (n // 4))", DIGITS).reward == 1.0
    assert judge("n = int(input())\nprint(10 ** (n // 4) + 1)", DIGITS).reward == 0.0
    long = {"tests": [{"stdin": "9" * 5000, "stdout": "9" * 5000 + "0"}]}
    assert judge("print(int(input()) * 10)", long).reward == 1.0


def test_setup_comes_before_the_program():
    answer = returns(3, 1) | {"setup": "from __future__ import annotations\nTWO = 2\nclass Base:\n    pass"}
    assert (
        judge("from __future__ import annotations\nclass Mine(Base): pass\ndef f(x: Nobody): return x + TWO", answer).reward
        == 1.0
    )
    assert judge("def f(x): return x", answer).reward == 0.0


@pytest.mark.parametrize(
    ("expected", "program", "reward"),
    [
        ("\n1 2 3\n", "print(1, 2, 3)", 1.0),
        ("1 2 3\n\n\n", "print(1, 2, 3)", 1.0),
        ("1 2 3 \n", "print('1 2 3')", 1.0),
        ("1 2 3", "print('\\n1 2 3\\n\\n')", 1.0),
        ("1\r\n2\r\n", "print(1)\nprint(2)", 1.0),
        ("1\n2", "print('1\\r\\n2\\r')", 1.0),
        ("1 2 3", "print(1, 2, 3, sep='  ')", 1.0),
        ("1\n2\n3", "print(1, 2, 3)", 0.0),
        ("1 2 3", "print(1, 2, 3, sep='\\n')", 0.0),
        ("a b", "print('a  b')", 0.0),
        ("1 2 3", "print(1, 2)", 0.0),
        ("1 2 3", "print(1, 2, 3, 4)", 0.0),
        ("", "pass", 1.0),
        ("", "print(0)", 0.0),
        ("YES", "print('yes')", 0.0),
        ("0.5", "print(1 / 2 + 1e-9)", 1.0),
        ("0.5", "print(.51)", 0.0),
        ("5", "print(4.9999999)", 0.0),
    ],
)
def test_layout_is_that_of_judges(expected: str, program: str, reward: float):
    assert judge(program, {"tests": [{"stdin": "", "stdout": expected}]}).reward == reward


def test_libraries_do_not_see_the_usual_names():
    program = "import sympy\nprint(sympy.parse_expr('exp(0)'), sympy.sympify('sin(x)').diff(), isqrt(9))"
    # an import that takes long where nothing compiled it before
    limits = {"time_limit_s": 200, "test_time_limit_s": 60}
    assert judge(program, {"tests": [{"stdin": "", "stdout": "1 cos(x) 3"}]} | limits).reward == 1.0

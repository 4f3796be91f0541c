"""Runs the test code of a problem, in a process of its own: the program under test is in another one (remote.py).

    scripts.py --spec, answers--> report --[{"state": passed | failed | pending, "operations"}, ...]--> scripts.py

The code is split into tests: each assertion of a list, each function `test_...`, and each assertion that stands for itself in a
script or in `check(candidate)`. What stands before an assertion is run for it again. `whole` keeps a script in one piece, for
assertions that change an object which later ones use. Standard library only, because this runs inside the sandbox.
"""

from __future__ import annotations

import ast
import builtins
import importlib.abc
import importlib.machinery
import inspect
import sys
import types
import unittest
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from . import prelude, pytest_stub
from .remote import CannotTest, Pending, Remote, Trace
from .trace import classes_of
from .values import Value

Body = list[ast.stmt]


class Space(dict[str, Value]):
    """Global names of test code. A name that it does not define is the program's."""

    def __init__(self, trace: Trace, own: frozenset[str]) -> None:
        """own: names of Python's own that the program defines and the tests mean."""
        super().__init__({"__name__": "tests"})
        self._trace, self._own = trace, own

    def __missing__(self, name: str) -> Value:
        if name not in self._own and (hasattr(builtins, name) or name.startswith("__")):
            raise KeyError(name)
        return Remote(self._trace, None, (name,))

    def run(self, body: Body) -> None:
        """Run statements with these names."""
        tree = ast.fix_missing_locations(ast.Module(body=body, type_ignores=[]))
        types.FunctionType(importlib.abc.InspectLoader.source_to_code(tree, "tests"), self)()


class Solution(types.ModuleType):
    """The program as a module: `from solution import add`, under whatever name the tests know it."""

    def __getattr__(self, name: str) -> Value:
        if name.startswith("__"):
            raise AttributeError(name)
        return Remote(Tests.current, None, (name,))


class Finder(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Finds the program for each module that this machine does not have. It is asked last."""

    def find_spec(self, fullname: str, path: Value, target: Value = None) -> importlib.machinery.ModuleSpec | None:
        return importlib.machinery.ModuleSpec(fullname, self) if "." not in fullname else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return Solution(spec.name)

    def get_source(self, fullname: str) -> str:
        return ""


@dataclass(frozen=True)
class Test:
    """One test: statements, and what may be run after them.

    before: statements that prepare it. candidate: a name that stands for what the path leads to.
    """

    before: Body
    body: Body
    call: Callable[[Space], None] | None = None
    candidate: str = ""
    path: tuple[str, ...] = ()

    def run(self, space: Space, trace: Trace) -> None:
        if self.candidate:
            space[self.candidate] = Remote(trace, None, self.path)
        space.run(self.before)
        trace.shares_objects = trace.uses_objects
        space.run(self.body)
        if self.call:
            self.call(space)


class Tests:
    """The tests of one problem, by number."""

    current: Trace  # of the test that runs

    def __init__(self, spec: dict[str, Value]) -> None:
        self._setup = ast.parse(spec["setup"]).body
        self._entry: str = spec["entry_point"]
        self._whole: bool = spec["whole"]
        self.classes = classes_of(spec["setup"])
        self._texts = [ast.parse(text).body for text in spec["asserts"]]
        self._code = ast.parse(spec["test_code"]).body
        trees = [*self._setup, *self._code, *(node for body in self._texts for node in body)]
        of_python = frozenset() if self._entry else means_of_python(trees)
        # a program that defines none of them has none of what is tested
        self._own = (of_python & frozenset(spec["defined"])) or of_python

    def all(self) -> Iterator[Test]:
        """The tests in order."""
        if self._texts:
            yield from (Test([], body) for body in self._texts)
        elif self._entry:
            yield from self._of_check()
        elif any(_is_test(node) for node in self._code):
            yield from self._of_pytest()
        else:
            yield from self._split([], self._code)

    def _split(self, before: Body, body: Body) -> Iterator[Test]:
        """The tests in a block: each is an assertion, with the statements before it that are none."""
        functions = {node.name for node in body if isinstance(node, ast.FunctionDef)}
        is_test = [_asserts(node) or _calls_one_of(node, functions) for node in body]
        if self._whole or not any(is_test):
            yield Test(before, body)
            return
        for number, node in enumerate(body):
            if is_test[number]:
                earlier = [one for one, tests in zip(body[:number], is_test[:number], strict=True) if not tests]
                yield Test([*before, *earlier], [node])

    def _of_check(self) -> Iterator[Test]:
        """`check(candidate)`: its assertions are the tests. What calls it in the script is left out."""
        check = next(node for node in self._code if isinstance(node, ast.FunctionDef) and node.name == "check")
        rest = [node for node in self._code if node is not check and not _calls_one_of(node, {"check"}) and not _is_main(node)]
        owner, _, name = self._entry.rpartition(".")
        path = (owner.removesuffix("()") + "()", name) if owner else (name,)
        if any(isinstance(node, ast.Return) for node in ast.walk(check)):
            yield Test([*rest, check], [], lambda space: space["check"](Remote(Tests.current, None, path)))
            return
        # the parameter becomes a global name
        for test in self._split(rest, check.body):
            yield replace(test, candidate=check.args.args[0].arg, path=path)

    def _of_pytest(self) -> Iterator[Test]:
        """Functions `test_...`, with their parameters, and methods of classes."""
        body = [node for node in self._code if not _is_main(node)]
        trace = Trace([], self.classes)
        space = self.prepared(trace)
        try:
            space.run(body)
        except Pending:
            # the script asks the program before its tests: then it is one test, which calls them all
            yield Test(body, [], _all_pytest_calls)
            return
        for number in range(len(_pytest_calls(space))):
            yield Test(body, [], _numbered(number))

    def prepared(self, trace: Trace) -> Space:
        """The names of a new test."""
        Tests.current = trace
        space = Space(trace, self._own)
        space.run(self._setup)
        trace.classes = {name: dict.get(space, name, kind) for name, kind in trace.classes.items()}
        return space


def means_of_python(trees: Body) -> frozenset[str]:
    """Names of Python's own that test code uses, if it uses no name that it does not define: one of them is the program's."""
    nodes = [node for tree in trees for node in ast.walk(tree)]
    names = [node for node in nodes if isinstance(node, ast.Name)]
    used = {node.id for node in names if isinstance(node.ctx, ast.Load)}
    made = {node.id for node in names if not isinstance(node.ctx, ast.Load)} | {
        node.arg for node in nodes if isinstance(node, ast.arg)
    }
    made |= {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] not in sys.stdlib_module_names:
            return frozenset()
        if isinstance(node, ast.Import | ast.ImportFrom):
            made |= {(one.asname or one.name).partition(".")[0] for one in node.names}
    free = used - made
    return frozenset(free) if all(hasattr(builtins, name) for name in free) else frozenset()


def _numbered(number: int) -> Callable[[Space], None]:
    return lambda space: _pytest_calls(space)[number](space)


def run_tests(
    spec: dict[str, Value], answers: dict[str, list[dict[str, Value]]], only: list[int] | None
) -> list[dict[str, Value]]:
    """Run the tests as far as their answers are known. only: the numbers of those to run.

    A test that never asks the program anything is "idle".
    """
    sys.modules["pytest"] = pytest_stub.module()
    sys.meta_path.append(Finder())
    tests = Tests(spec)
    found = []
    for number, test in enumerate(tests.all()):
        if only is None or number in only:
            found.append({"number": number} | _outcome(tests, test, answers.get(str(number), [])))
    return found


def _outcome(tests: Tests, test: Test, known: list[dict[str, Value]]) -> dict[str, Value]:
    trace, why = Trace(known, prelude.NODES | tests.classes), ""
    try:
        test.run(tests.prepared(trace), trace)
    except (Pending, CannotTest):
        pass
    except AssertionError as error:
        why = f"assertion failed: {error}"[:150]
    except BaseException as error:
        why = f"{type(error).__name__}: {error}"[:150]
    state = "failed" if why or trace.trouble else "passed" if trace.operations else "idle"
    operations = trace.operations[len(known) :] if trace.pending else []
    return {
        "state": "pending" if trace.pending else state,
        "why": trace.trouble or why,
        "operations": operations,
        "uses_objects": trace.uses_objects,
        "shares_objects": trace.shares_objects,
    }


def _asserts(node: ast.stmt) -> bool:
    """Whether a statement holds assertions and defines nothing."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return False
    return any(isinstance(one, ast.Assert) for one in ast.walk(node))


def _calls_one_of(node: ast.stmt, functions: set[str]) -> bool:
    call = node.value if isinstance(node, ast.Expr) else None
    return isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in functions


def _is_test(node: ast.stmt) -> bool:
    if isinstance(node, ast.ClassDef):
        return any(_is_test(one) for one in node.body)
    return isinstance(node, ast.FunctionDef) and node.name.startswith("test")


def _is_main(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and "__name__" in ast.unparse(node.test)


def _pytest_calls(space: Space) -> list[Callable[[Space], None]]:
    """The tests that a script has defined, in order."""
    calls: list[Callable[[Space], None]] = []
    for name, value in list(space.items()):
        if isinstance(value, types.FunctionType) and name.startswith("test"):
            cases = getattr(value, "prolong_cases", [{}])
            calls += [lambda space, name=name, case=case: _call(space, space[name], case) for case in cases]
        elif isinstance(value, type) and value.__module__ == "tests" and not name.startswith("_"):
            methods = [method for method in vars(value) if method.startswith("test")]
            calls += [lambda space, name=name, method=method: _call_method(space, space[name], method) for method in methods]
    return calls


def _all_pytest_calls(space: Space) -> None:
    for call in _pytest_calls(space):
        call(space)


def _call_method(space: Space, kind: type, name: str) -> None:
    instance = kind(name) if issubclass(kind, unittest.TestCase) else kind()
    for before in ("setup_class", "setUpClass"):
        getattr(kind, before, lambda: None)()
    for before in ("setUp", "setup_method"):
        function = getattr(instance, before, None)
        if function is not None:
            function(*[None] * len(inspect.signature(function).parameters))
    for case in getattr(getattr(kind, name), "prolong_cases", [{}]):
        _call(space, getattr(instance, name), case)


def _call(space: Space, function: Callable[..., Value], case: dict[str, Value]) -> None:
    """Call a test with its parameters and fixtures."""
    function(**case | {name: _fixture(space, name) for name in inspect.signature(function).parameters if name not in case})


def _fixture(space: Space, name: str) -> Value:
    function = dict.get(space, name)
    if function is None or not getattr(function, "prolong_fixture", False):
        raise Tests.current.cannot(f"there is no fixture {name}")
    value = function(**{one: _fixture(space, one) for one in inspect.signature(function).parameters})
    return next(value) if inspect.isgenerator(value) else value

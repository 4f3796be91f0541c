"""Objects of a program that runs in another process, as the code that tests it sees them.

    test code --Remote--> Trace --operations--> (the program, by way of our parent process) --answers--> Trace --> plain values

A Trace replays what is already answered and stops at the first operation that is not (Pending); the test code is then run again
with the answer. Values that arrive are plain and of Python's own types, so that no comparison of the test's runs the program's
code: that would let a program say that it equals everything. Standard library only, because this runs inside the sandbox.
"""

from __future__ import annotations

import builtins
import operator
from collections.abc import Callable, Mapping

from .values import Encoder, NotPlain, Value, decoded


class Pending(BaseException):
    """The next answer is not known yet."""


class CannotTest(BaseException):
    """The test code does something that cannot be told about a program in another process."""


class Trace:
    """The operations of one test, in order, and the answers that are known.

    trouble: a reason why this test cannot be passed, even if its code goes on. uses_objects: whether anything stays in the
    program between two operations. shares_objects: whether what prepares the test made such objects.
    """

    def __init__(self, answers: list[dict[str, Value]], classes: Mapping[str, type]) -> None:
        self.operations: list[dict[str, Value]] = []
        self.pending, self.trouble = False, ""
        self.uses_objects = self.shares_objects = False
        self.classes = classes
        self._answers = answers

    def do(self, what: str, target: Remote, args: tuple[Value, ...] = (), kwargs: Mapping[str, Value] | None = None) -> Value:
        """The answer to one operation. Raises Pending if it is not known, the program's exception if that is the answer."""
        if self.pending:
            raise Pending
        try:
            given = Encoder(self.classes, place_of).message([list(args), dict(kwargs or {})])
        except (NotPlain, RecursionError) as error:
            raise self.cannot(f"an argument cannot be handed over: {error}") from error
        number = len(self.operations)
        self.operations.append({"do": what, "on": place_of(target)["handle"], "given": given})
        if number >= len(self._answers):
            self.pending = True
            raise Pending
        return self._taken(self._answers[number], what, args)

    def cannot(self, why: str) -> CannotTest:
        """Note that this test cannot be passed; returns the exception to raise."""
        self.trouble = self.trouble or why
        return CannotTest(why)

    def _taken(self, answer: dict[str, Value], what: str, args: tuple[Value, ...]) -> Value:
        try:
            if "raised" in answer:
                error = exception_like(list(map(str, answer["raised"])), str(answer["text"]), may_stop=what == "next")
            else:
                _change(args, decoded(answer["changed"], self.classes, self._stays) if "changed" in answer else [])
                return decoded(answer, self.classes, self._stays)
        except (NotPlain, KeyError, TypeError) as unreadable:
            raise self.cannot(f"its answer is not a value: {unreadable}") from unreadable
        raise error

    def _stays(self, number: Value) -> Remote:
        self.uses_objects = True
        return Remote(self, int(number), ())


def _change(args: tuple[Value, ...], changed: list[Value]) -> None:
    """Change arguments as the program did."""
    for mine, theirs in zip(args, changed, strict=False):
        if isinstance(mine, list) and isinstance(theirs, list):
            mine[:] = theirs
        elif isinstance(mine, dict | set) and type(mine) is type(theirs):
            mine.clear()
            mine.update(theirs)


STOPS = ("StopIteration", "StopAsyncIteration")  # would end a loop of the test's


def exception_like(names: list[str], text: str, *, may_stop: bool = False) -> BaseException:
    """An exception of the first class of Python's own among the names; it remembers them all."""
    if names[:1] and names[0] in STOPS and not may_stop:
        return RuntimeError(f"the program raised {names[0]}")
    found = [getattr(builtins, name, None) for name in names]
    kinds = [one for one in found if isinstance(one, type) and issubclass(one, Exception)]
    try:
        error = kinds[0](text)
    except (IndexError, TypeError):
        # some of Python's own want more than a text
        error = Exception(text)
    vars(error)["prolong_names"] = names
    return error


class Remote:
    """A name of the program, an attribute of it, or an object that it keeps."""

    def __init__(self, trace: Trace, kept: int | None, path: tuple[str, ...]) -> None:
        vars(self).update(_trace=trace, _kept=kept, _path=path)

    def __getattr__(self, name: str) -> Value:
        if name.startswith("__"):
            raise AttributeError(name)
        return Remote(self._trace, self._kept, (*self._path, name))

    def __setattr__(self, name: str, value: Value) -> None:
        raise self._trace.cannot(f"it sets {name} of an object of the program")

    def __call__(self, *args: Value, **kwargs: Value) -> Value:
        return self._trace.do("call", self, args, kwargs)

    def __eq__(self, other: object) -> bool:
        mine, theirs = value_of(self), value_of(other)
        if isinstance(mine, Remote) and isinstance(theirs, Remote):
            return self._trace.do("eq", mine, (theirs,)) is True
        return not isinstance(mine, Remote) and not isinstance(theirs, Remote) and mine == theirs

    def __hash__(self) -> int:
        return hash((self._kept, self._path))

    def __bool__(self) -> bool:
        return bool(_plain(self, "asks whether it is true"))

    def __contains__(self, item: Value) -> bool:
        return value_of(item) in _plain(self, "asks what is in it")

    def __instancecheck__(self, instance: Value) -> bool:
        return isinstance(instance, Remote) and self._trace.do("isinstance", instance, (self,)) is True

    def __iter__(self) -> Value:
        return iter(_use("list", self))

    def __next__(self) -> Value:
        return _use("next", self)


def place_of(value: Value) -> dict[str, Value]:
    """What stands for a Remote in a message. Raises NotPlain for other values."""
    if not isinstance(value, Remote):
        raise NotPlain(f"a {type(value).__name__}")
    return {"handle": {"kept": vars(value)["_kept"], "path": list(vars(value)["_path"])}}


def value_of(value: Value) -> Value:
    """The plain value behind an attribute; a Remote without a path if it is an object of the program's own."""
    if isinstance(value, Remote) and vars(value)["_path"]:
        return vars(value)["_trace"].do("get", value)
    return value


def _plain(value: Remote, what: str) -> Value:
    found = value_of(value)
    if isinstance(found, Remote):
        raise vars(value)["_trace"].cannot(f"the test {what} of an object whose class is the program's own")
    return found


def _use(what: str, value: Remote, *others: Value) -> Value:
    """The result of a function or an operator of Python's on a value and others."""
    mine = value_of(value)
    if isinstance(mine, Remote):
        return vars(mine)["_trace"].do(what, mine, tuple(map(value_of, others)))
    function: Callable[..., Value] = getattr(operator, what, None) or getattr(builtins, what)
    return function(mine, *map(value_of, others))


def _compared(what: str) -> Callable[[Remote, Value], bool]:
    def compare(self: Remote, other: Value) -> bool:
        mine, theirs = value_of(self), value_of(other)
        if isinstance(mine, Remote) != isinstance(theirs, Remote):
            raise self._trace.cannot("the test compares a value with an object whose class is the program's own")
        return _use(what, mine, theirs) if isinstance(mine, Remote) else bool(getattr(operator, what)(mine, theirs))

    return compare


def _used(what: str) -> Callable[..., Value]:
    return lambda self, *others: _use(what, self, *others)


for _name in ("lt", "le", "gt", "ge"):
    setattr(Remote, f"__{_name}__", _compared(_name))
for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "neg", "getitem", "setitem", "delitem"):
    setattr(Remote, f"__{_name}__", _used(_name))
for _name in ("abs", "len", "str", "repr", "int", "float", "round"):
    setattr(Remote, f"__{_name}__", _used(_name))

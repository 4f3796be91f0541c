"""A program that is tested from outside: operations come in, their answers go out.

    tester.py (another process) --operations--> sandbox.py --> answers --> tester.py

An operation calls a name of the program, or something on an object that an earlier operation left here. Every answer is a
message of values.py, or the names of the exception's classes. Standard library only, because this runs inside the sandbox.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping

from .values import Encoder, Value, decoded

USES: dict[str, Callable[..., Value]] = {
    name: getattr(operator, name)
    for name in (
        "add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "neg", "abs", "eq", "lt", "le", "gt", "ge",
        "getitem", "setitem", "delitem",
    )
} | {
    "len": len, "list": list, "str": str, "repr": repr, "int": int, "float": float, "next": next, "round": round,
    "isinstance": isinstance,
}  # fmt: skip

CHANGEABLE = (list, dict, set)  # arguments that a call may change, as tests of sorting in place expect


def classes_of(setup: str) -> dict[str, type]:
    """The names of the classes that the problem's code defines, for the Encoder."""
    return {node.name: object for node in ast.walk(ast.parse(setup)) if isinstance(node, ast.ClassDef)}


def answers(module: Value, operations: list[dict[str, Value]], classes: Mapping[str, type]) -> list[dict[str, Value]]:
    """Do the operations in order and return an answer to each."""
    space, kept = vars(module), list[Value]()
    known = {name: space.get(name, kind) for name, kind in classes.items()}

    def keep(value: Value) -> dict[str, int]:
        kept.append(value)
        return {"handle": len(kept) - 1}

    def place(target: dict[str, Value]) -> Value:
        value = module if target["kept"] is None else kept[target["kept"]]
        for name in target["path"]:
            # Solution().add: a new instance
            value = _of(value, name.removesuffix("()"))
            value = value() if name.endswith("()") else value
        return value

    def do(operation: dict[str, Value]) -> dict[str, Value]:
        try:
            args, kwargs = decoded(operation["given"], known, place)
            target = place(operation["on"])
            if operation["do"] == "get":
                return Encoder(known, keep).message(target)
            if operation["do"] != "call":
                return Encoder(known, keep).message(USES[operation["do"]](target, *args))
            answer = Encoder(known, keep).message(target(*args, **kwargs))
            changed = [one if isinstance(one, CHANGEABLE) else None for one in args]
            return answer | {"changed": Encoder(known, keep).message(changed)}
        except (Exception, SystemExit) as error:
            names = [kind.__name__ for kind in type(error).__mro__]
            return {"raised": names, "text": f"{error}"[:300]}

    return [do(operation) for operation in operations]


def _of(owner: Value, name: str) -> Value:
    """An attribute; a name that a module lacks may be a method of its class Solution."""
    if not hasattr(owner, name) and hasattr(owner, "Solution"):
        owner = owner.Solution()
    return getattr(owner, name)

"""The main function of a jailed Python process: it runs one untrusted program, or calls one function, and ends.

    payload (descriptor 3) --> run_payload --> standard output, or JSON on descriptor 4

The program may tamper with everything here. That is harmless, because the parent compares the output with the expected answer
and takes no verdict from it. The exception is the kind `trusted`, whose function sees untrusted text: see Sandbox.call.
Standard library only, because this runs inside the sandbox.
"""

from __future__ import annotations

import atexit
import builtins
import decimal
import fractions
import gc
import importlib
import importlib.abc
import importlib.util
import json
import os
import random
import resource
import sys
import types
from typing import NoReturn

from . import prelude, trace
from .values import Value

PAYLOAD, RESULT = 3, 4  # descriptors


class Source(importlib.abc.InspectLoader):
    """Loads a module from text in memory."""

    def __init__(self, code: str) -> None:
        self._source = code
        self._code: types.CodeType | None = None

    def get_source(self, fullname: str) -> str:
        return self._source

    def get_code(self, fullname: str) -> types.CodeType:
        if self._code is None:
            self._code = self.source_to_code(self._source, "<string>")
        return self._code

    def exec_module(self, module: types.ModuleType) -> None:
        """Run it. Names of the prelude stand behind its own, so that nobody finds them in the module from outside."""
        if names := prelude.mentioned(self.get_code(module.__name__)):
            earlier = vars(module).get("__builtins__")
            vars(module)["__builtins__"] = vars(builtins) | (earlier if isinstance(earlier, dict) else {}) | names
        super().exec_module(module)


def load(code: str, name: str, setup: str = "") -> Value:
    """Run the text as module `name` in this process. setup: code of the problem's, run before it in the same module."""
    loader = Source(code)
    spec = importlib.util.spec_from_loader(name, loader)
    assert spec is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    if setup:
        Source(setup).exec_module(module)
    loader.exec_module(module)
    return module


def open_streams() -> None:
    """Open text streams on descriptors 0 to 2, and seed the random numbers so that every process draws the same."""
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", errors="surrogateescape", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr
    sys.argv = ["solution.py"]
    sys.set_int_max_str_digits(0)
    random.seed(0)
    hard = resource.getrlimit(resource.RLIMIT_STACK)[1]
    resource.setrlimit(resource.RLIMIT_STACK, (64 << 20, hard))


def run_payload(kind: str) -> None:
    """Run the payload and end the process. An exception of the program ends it as in any Python program.

    kind: "program", "function" or "trace" (calls of untrusted code, see trace.py), "script" (a program with arguments), or
    "trusted" (a function of a module of ours).
    """
    with open(PAYLOAD, "rb") as file:
        payload = file.read()
    open_streams()
    if kind == "program":
        run_program(payload.decode())
    task = json.loads(payload)
    if kind == "script":
        sys.argv = task["arguments"]
        run_program(task["code"])
    if kind == "trusted":
        function = getattr(importlib.import_module(task["module"]), task["function"])
        result = json.dumps(function(*task["args"]), allow_nan=False)
    else:
        module = load(task["code"], "solution", task["setup"])
        if kind == "trace":
            result = json.dumps(trace.answers(module, task["operations"], prelude.NODES | trace.classes_of(task["setup"])))
        else:
            returned = _find(module, task["function"])(*task["args"], **task["kwargs"])
            result = json.dumps(returned, allow_nan=False, default=_as_json)
    sys.stdout.flush()
    with os.fdopen(RESULT, "w", encoding="utf-8") as file:
        file.write(result)
    os._exit(0)


def run_program(code: str) -> NoReturn:
    """Run the text as `__main__`, and end the process."""
    try:
        load(code, "__main__")
    except SystemExit as leaving:
        if leaving.code:
            raise
    end()


def _as_json(value: Value) -> Value:
    """What the value is in JSON: numbers and arrays of numpy, decimals and fractions. Raises TypeError for others."""
    if isinstance(value, decimal.Decimal | fractions.Fraction):
        return int(value) if value == int(value) else float(value)
    if type(value).__module__.partition(".")[0] == "numpy" and hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


def end() -> NoReturn:
    """Do everything at a program's end that may still print, and exit.

    The interpreter's own end would also take its modules apart, which is two thirds of the time of a short run.
    """
    if "threading" in sys.modules:
        sys.modules["threading"]._shutdown()
    atexit._run_exitfuncs()
    vars(sys.modules.pop("__main__", end)).clear()  # closes its files
    gc.collect()
    for stream in (sys.stdout, sys.__stdout__, sys.stderr):
        if stream is not None and not getattr(stream, "closed", False):
            stream.flush()
    os._exit(0)


def _find(module: Value, path: str) -> Value:
    """Find `name`, `Class.name` (of an instance made without arguments), or `name` as a method of a class called Solution."""
    owner, _, name = path.rpartition(".")
    if not owner and not hasattr(module, name) and hasattr(module, "Solution"):
        owner = "Solution"
    return getattr(getattr(module, owner)() if owner else module, name)

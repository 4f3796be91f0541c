"""The main function of a jailed Python process: it runs one untrusted program, or calls one function, and ends.

    payload (descriptor 3) --> run_payload --> standard output, or plain JSON on descriptor 4

The program may tamper with everything here. That is harmless, because the parent compares the output with the expected answer
and takes no verdict from it. The exception is the kind `trusted`, whose function sees untrusted text: see Sandbox.call.
Standard library only, because this runs inside the sandbox.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import importlib.abc
import importlib.util
import json
import os
import random
import resource
import sys
from typing import Any

PAYLOAD, RESULT = 3, 4  # descriptors


class Source(importlib.abc.InspectLoader):
    """Loads a module from text in memory."""

    def __init__(self, code: str) -> None:
        self._code = code

    def get_source(self, fullname: str) -> str:
        return self._code


def load(code: str, name: str) -> Any:
    """Run the text as module `name` in this process."""
    loader = Source(code)
    spec = importlib.util.spec_from_loader(name, loader)
    assert spec is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def open_streams() -> None:
    """Open text streams on descriptors 0 to 2, and seed the random numbers so that every process draws the same."""
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", errors="surrogateescape", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr
    sys.argv = ["solution.py"]
    random.seed(0)
    hard = resource.getrlimit(resource.RLIMIT_STACK)[1]
    resource.setrlimit(resource.RLIMIT_STACK, (64 << 20, hard))


def run_payload(kind: str) -> None:
    """Run the payload and end the process. An exception of the program ends it as in any Python program.

    kind: "program", "function" (of untrusted code) or "trusted" (a function of a module of ours).
    """
    with open(PAYLOAD, "rb") as file:
        payload = file.read()
    open_streams()
    if kind == "program":
        try:
            load(payload.decode(), "__main__")
        except SystemExit as leaving:
            if leaving.code:
                raise
        end()
    task = json.loads(payload)
    if kind == "function":
        module = load(task["code"], "solution")
        function = _find(module, task["function"])
    else:
        function = getattr(importlib.import_module(task["module"]), task["function"])
    result = json.dumps(function(*task["args"], **task.get("kwargs", {})), allow_nan=False)
    sys.stdout.flush()
    with os.fdopen(RESULT, "w", encoding="utf-8") as file:
        file.write(result)
    os._exit(0)


def end() -> None:
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


def _find(module: Any, path: str) -> Any:
    """Find `name`, `Class.name` (of an instance made without arguments), or `name` as a method of a class called Solution."""
    owner, _, name = path.rpartition(".")
    if not owner and not hasattr(module, name) and hasattr(module, "Solution"):
        owner = "Solution"
    return getattr(getattr(module, owner)() if owner else module, name)

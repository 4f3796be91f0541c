"""Environments of the PyPI package `verifiers`, each in a process with a Python environment of its own.

    worker --a line of JSON--> environment_host.py (the environment's Python and packages) --a line of JSON--> worker

Their requirements need not agree with ours: their interpreter runs one file of ours that imports nothing of ours.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any, NoReturn

from ...common.json_object import JsonObject
from ..api import Answer, Score, Task, Verifier

HOST = Path(__file__).with_name("environment_host.py")
CLOSE_S = 5.0


class EnvironmentProcess:
    """The process of one taskset. It starts with the first question, or with `start`, and again after its death."""

    def __init__(self, python: str, taskset: str, config: JsonObject) -> None:
        # -I keeps our PYTHONPATH out of their interpreter
        self._command = [python, "-I", str(HOST), taskset, json.dumps(config)]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Block while the environment is imported; the pool's deadline for a worker's start bounds it.

        Raises RuntimeError when it cannot be loaded, OSError when the interpreter cannot be started.
        """
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(self._command, stdin=pipe, stdout=pipe)
        ready = self._read(self._process)
        if "ready" not in ready:
            raise RuntimeError(f"{self._command[0]} {self._command[3]}: {ready.get('error')}")

    def ask(self, question: JsonObject) -> JsonObject:
        """Ask and wait for the answer. At its deadline the pool kills this worker, and this process with it.

        Raises RuntimeError.
        """
        if self._process is None:
            self.start()
        process = self._process
        assert process is not None
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(question).encode() + b"\n")
            process.stdin.flush()
        except OSError:
            self._fail(process)
        return self._read(process)

    def _read(self, process: subprocess.Popen[bytes]) -> JsonObject:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line.endswith(b"\n"):
            self._fail(process)
        return json.loads(line)

    def _fail(self, process: subprocess.Popen[bytes]) -> NoReturn:
        self._process = None
        process.kill()
        code = process.wait(timeout=CLOSE_S)
        raise RuntimeError(f"{self._command[0]} {self._command[3]}: its process ended with code {code}; see standard error")


class EnvironmentVerifier(Verifier):
    """Asks an environment of `verifiers` for each reward. See `from_verifiers`."""

    def __init__(self, taskset: str, process: EnvironmentProcess) -> None:
        self._taskset, self._process = taskset, process

    def check(self, answer: Answer) -> None:
        """Accepts every answer: only the environment knows which fields its task data needs."""

    def gold(self, answer: Answer) -> str | None:
        return None

    def load(self) -> None:
        self._process.start()

    def score(self, task: Task) -> Score:
        reply = self._process.ask({"prompt": task.prompt, "completion": task.completion, "data": task.answer})
        if "error" in reply:
            raise RuntimeError(f"{self._taskset}: {reply['error']}")
        return Score(reward=float(reply["reward"]), metrics=reply["metrics"])


def from_verifiers(taskset: str, *, python: str, **config: Any) -> Verifier:
    """Tasks of a taskset of `verifiers` >= 0.4 (`verifiers.v1`), named by its id there; each completion is judged alone.

    python: the interpreter of the environment that has it (`/envs/gsm8k/bin/python`). config: of its TasksetConfig.
    The answer object holds the fields of its task data (`answer`, ...). Rewards that need a runtime of `verifiers` are refused.
    """
    return EnvironmentVerifier(taskset, EnvironmentProcess(python, taskset, config))

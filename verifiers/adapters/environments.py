"""Environments of the PyPI package `verifiers`, each in a process with a Python environment of its own.

    worker --a line of JSON--> environment_host.py (their Python, their packages) --a line of JSON--> worker

Their requirements and ours need not agree: their interpreter runs one file of ours that imports nothing of ours.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from ..api import Score, Task, Verifier

HOST = Path(__file__).with_name("environment_host.py")
CLOSE_S = 5.0


class Host:
    """The process; started when it is first needed, and again after it died."""

    def __init__(self, python: str, taskset: str, config: dict[str, Any]) -> None:
        # -I: neither this folder, whose math.py is not theirs, nor our PYTHONPATH
        self._command = [python, "-I", str(HOST), taskset, json.dumps(config)]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Blocks while the environment is imported; the pool's patience with a worker's start ends it.

        Raises RuntimeError when it cannot be loaded, OSError for an interpreter that is none.
        """
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(self._command, stdin=pipe, stdout=pipe)
        ready = self._read()
        if "ready" not in ready:
            raise RuntimeError(f"{self._command[0]} {self._command[3]}: {ready.get('error')}")

    def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        """Its answer. Blocks: the pool kills this worker, and with it the host, at the deadline. Raises RuntimeError."""
        if self._process is None:
            self.start()
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(question).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            return self._gone()
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        return json.loads(line) if line.endswith(b"\n") else self._gone()

    def _gone(self) -> dict[str, Any]:
        assert self._process is not None
        process, self._process = self._process, None
        process.kill()
        code = process.wait(timeout=CLOSE_S)
        raise RuntimeError(f"{self._command[0]} {self._command[3]}: its process ended with code {code}; see standard error")


def from_verifiers(taskset: str, *, python: str, **config: Any) -> Verifier:
    """Tasks of a taskset of `verifiers` >= 0.4 (`verifiers.v1`), by its id there, judged one completion each.

    python: the interpreter of the environment that has it (`/envs/gsm8k/bin/python`). config: of its TasksetConfig.
    The answer object holds the fields of its task data (`answer`, ...). Rewards that need a sandbox of theirs are refused.
    """
    host = Host(python, taskset, config)

    def score(task: Task) -> Score:
        said = host.ask({"prompt": task.prompt, "completion": task.completion, "data": task.answer})
        if "error" in said:
            raise RuntimeError(f"{taskset}: {said['error']}")
        return Score(reward=float(said["reward"]), metrics=said["metrics"])

    def check(answer: dict[str, Any]) -> None:
        """What fields its task data needs is the environment's own to say."""

    return Verifier(check=check, load=host.start, score=score, probe=None)

"""A user's function that stays in the process that started the run, and is asked over a Unix socket of this machine.

    worker --AskedScore--> function_server.py, in a notebook or script: calls the function --GivenScore--> worker

One line of JSON each way. The socket lies in a folder that only its owner may enter, and what travels are texts, numbers and
token ids: neither side sends code.
"""

from __future__ import annotations

import contextlib
import json
import socket
from io import BufferedRWPair

import msgspec

from ...common.errors import UserError, VerifierFailure
from ..api import Answer, Score, Task, Verifier

SERVED = "unix:"  # begins a target of verifiers.own; the path of the socket follows
MAX_LINE_BYTES = 64 << 20
CONNECT_S = 10.0
ANSWER_S = 3600.0  # the pool's own deadline (verifiers.timeout_s) ends a worker long before


class AskedScore(msgspec.Struct, frozen=True, kw_only=True):
    """Worker -> function: one completion to judge."""

    verifier: str
    answer: str  # JSON object: it may hold integers of any size
    task: Task


class GivenScore(msgspec.Struct, frozen=True, kw_only=True):
    """Function -> worker: a score, or what the function raised."""

    score: Score | None = None
    error: str = ""


class FunctionRaised(Exception):
    """The function raised; its process has shown the traceback."""


class ServedVerifier(Verifier):
    """Asks the function `name` behind the socket at `path`. A worker keeps one connection for all its questions."""

    def __init__(self, name: str, path: str) -> None:
        self._name, self._path = name, path
        self._lines: BufferedRWPair | None = None

    def check(self, answer: Answer) -> None:
        """Accepts every answer: only the function knows which fields it needs."""

    def gold(self, answer: Answer) -> str | None:
        return None

    def load(self) -> None:
        """Connect. Raises UserError when nobody listens."""
        channel = socket.socket(socket.AF_UNIX)
        channel.settimeout(CONNECT_S)
        try:
            channel.connect(self._path)
        except OSError as error:
            channel.close()
            raise UserError(
                f"verifiers.own.{self._name} = '{SERVED}{self._path}': nobody serves it ({error}). It is a function of the "
                "Python process that started the run: start it from Python again, or name an importable MODULE:FUNCTION"
            ) from error
        channel.settimeout(ANSWER_S)
        with channel:
            self._lines = channel.makefile("rwb")

    def score(self, task: Task) -> Score:
        assert self._lines is not None
        asked = AskedScore(verifier=self._name, answer=json.dumps(task.answer), task=msgspec.structs.replace(task, answer={}))
        line = b""
        with contextlib.suppress(OSError):
            self._lines.write(msgspec.json.encode(asked) + b"\n")
            self._lines.flush()
            line = self._lines.readline(MAX_LINE_BYTES)
        if not line.endswith(b"\n"):
            raise VerifierFailure(f"the process that serves verifiers.own.{self._name} is gone")
        given = msgspec.json.decode(line, type=GivenScore)
        if given.score is None:
            raise FunctionRaised(given.error)
        return given.score

"""Serves functions of this process to the verifier workers of a run: what `prolong.launch.python` does with callables.

worker (services/served.py) --a line--> a thread of this process: one function at a time, in the order of arrival
"""

from __future__ import annotations

import contextlib
import json
import socketserver
import sys
import threading
import traceback
from collections.abc import Mapping

import msgspec

from ..common.errors import ConfigError
from ..common.temporary_folder import TemporaryFolder
from .adapters import RewardFunction, from_function
from .api import Verifier
from .services.served import MAX_LINE_BYTES, SERVED, AskedScore, GivenScore

MAX_SHOWN = 20  # kinds of exceptions of which one is printed
MAX_ERROR = 500  # characters


class FunctionServer:
    """Serves `functions` from `open` to `close`; `targets` is the value for `verifiers.own`.

    A function is f(completion, answer), or a Verifier such as the adapters make. It is called in a thread of its own, and never
    while another one runs.
    """

    def __init__(self, functions: Mapping[str, RewardFunction | Verifier]) -> None:
        self._verifiers = {name: _as_verifier(name, function) for name, function in functions.items()}
        self._turn = threading.Lock()
        self._shown = set[str]()
        # short, because the path of a socket may have 107 characters; made by `open`
        self._folder = TemporaryFolder("functions")
        self._server: _LineServer | None = None

    @property
    def targets(self) -> dict[str, str]:
        return dict.fromkeys(self._verifiers, f"{SERVED}{self._folder.path / 'functions'}")

    def open(self) -> None:
        """Listen, if there are functions. The folder of the socket is made here, and only its owner may enter it."""
        if not self._verifiers:
            return
        for verifier in self._verifiers.values():
            verifier.load()
        self._server = _LineServer(str(self._folder.make() / "functions"), self)
        threading.Thread(target=self._server.serve_forever, args=(0.1,), name="rewards", daemon=True).start()

    def close(self) -> None:
        """Stop listening. A function that is running at this moment goes on, and nobody reads what it returns."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None
            self._folder.remove()

    def answer(self, line: bytes) -> bytes:
        """Call the function that a line asks for. An exception of it is an answer, too."""
        asked = msgspec.json.decode(line, type=AskedScore)
        task = msgspec.structs.replace(asked.task, answer=json.loads(asked.answer))
        with self._turn:
            try:
                given = GivenScore(score=self._verifiers[asked.verifier].score(task))
            except Exception as error:  # a function of the user's may raise anything
                self._show(asked.verifier, error)
                given = GivenScore(error=f"{error!r:.{MAX_ERROR}}")
        return msgspec.json.encode(given) + b"\n"

    def _show(self, name: str, error: Exception) -> None:
        """Print the first exception of each kind, where the user of the function sees it."""
        frame = traceback.extract_tb(error.__traceback__)[-1]
        kind = f"{name}: {type(error).__name__} at {frame.filename}:{frame.lineno}"
        if kind not in self._shown and len(self._shown) < MAX_SHOWN:
            self._shown.add(kind)
            text = "".join(traceback.format_exception(error))
            sys.stderr.write(
                f"reward function {name} raised: no reward for this rollout. Others like it are only counted.\n{text}"
            )


class _LineServer(socketserver.ThreadingUnixStreamServer):
    """A thread for each worker; a line in, a line out."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, path: str, functions: FunctionServer) -> None:
        self.functions = functions
        super().__init__(path, _Lines)


class _Lines(socketserver.StreamRequestHandler):
    """Consumes the lines of one worker; stops when it closes its end, or is killed."""

    def handle(self) -> None:
        assert isinstance(self.server, _LineServer)
        with contextlib.suppress(ConnectionError):
            while line := self.rfile.readline(MAX_LINE_BYTES):
                self.wfile.write(self.server.functions.answer(line))


def _as_verifier(name: str, function: RewardFunction | Verifier) -> Verifier:
    if isinstance(function, Verifier):
        return function
    if not callable(function):
        raise ConfigError(
            f"rewards[{name!r}] = {function!r:.100}: expected a function f(completion, answer), or MODULE:FUNCTION"
        )
    return from_function(function)

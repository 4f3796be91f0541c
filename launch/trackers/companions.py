"""The processes of trackers beside a learner: started with it, started again when they fail, and left
alone when they are slow."""

from __future__ import annotations

import contextlib
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import monotonic

from ...common.config.run_files import run_paths
from ...common.config.sections import Config

log = logging.getLogger(__name__)

PROCESS = "prolong.launch.trackers.process"
PAUSE_S, MAX_PAUSE_S = 10.0, 600.0  # before a failed tracker is started again: doubled each time
FLUSH_S = 20.0  # trackers have this to send the rest when the run has ended


class Companion:
    """One tracker's process and the thread that waits for it. Nothing that it does can fail or hold up its caller."""

    def __init__(self, name: str, command: list[str], logs: Path) -> None:
        self.name = name
        self.num_failures = 0
        self._command, self._logs = command, logs
        self._ending = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._keep_running, name=f"tracker-{name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def pid(self) -> int:
        """0 while there is no process."""
        process = self._process
        return 0 if process is None else process.pid

    def end(self) -> None:
        """Tell the process to send the rest; does not wait."""
        with self._lock:
            self._ending.set()
            if self._process is not None and self._process.stdin is not None:
                with contextlib.suppress(OSError):
                    self._process.stdin.close()

    def join(self, timeout_s: float) -> bool:
        """Whether it has ended within this time."""
        self._thread.join(max(timeout_s, 0.0))
        return not self._thread.is_alive()

    def _keep_running(self) -> None:
        pause_s = PAUSE_S
        while not self._ending.is_set():
            code = self._run()
            if code == 0 or self._ending.is_set():
                return
            self.num_failures += 1
            log.warning(
                "tracker %s failed (exit code %s), the run goes on; it is started again in %.0f s: see %s",
                self.name,
                code,
                pause_s,
                self._log,
            )
            self._ending.wait(pause_s)
            pause_s = min(2 * pause_s, MAX_PAUSE_S)

    @property
    def _log(self) -> Path:
        return self._logs / f"tracker-{self.name}.log"

    def _run(self) -> int | None:
        """The exit code of one process; None if it could not be started."""
        try:
            with self._log.open("ab") as log_file, self._lock:
                if self._ending.is_set():
                    return 0
                # a session of its own: Ctrl-C is for the learner, and what the package starts can be ended with it
                self._process = subprocess.Popen(
                    self._command, stdin=subprocess.PIPE, stdout=log_file, stderr=log_file, start_new_session=True
                )
        except OSError as error:
            log.warning("tracker %s cannot be started: %s", self.name, error)
            return None
        code = self._process.wait()
        with self._lock, contextlib.suppress(OSError):
            assert self._process.stdin is not None
            self._process.stdin.close()
        return code


def companions_of(cfg: Config) -> list[Companion]:
    """One for each tracker of the run; none is started."""
    paths = run_paths(cfg)
    if cfg.trackers:
        paths.logs.mkdir(parents=True, exist_ok=True)
    return [Companion(name, [sys.executable, "-m", PROCESS, str(paths.folder), name], paths.logs) for name in cfg.trackers]


@contextlib.contextmanager
def companions_beside(companions: Sequence[Companion], hurried: Sequence[object], flush_s: float = FLUSH_S) -> Iterator[None]:
    """The companions run while the block does; at its end they have `flush_s` to send the rest.

    `hurried`: not empty when there is no time for that. What is under way then goes on without this process.
    """
    for companion in companions:
        companion.start()
    try:
        yield
    finally:
        for companion in companions:
            companion.end()
        deadline = monotonic() + (0.0 if hurried else flush_s)
        for companion in companions:
            if not companion.join(deadline - monotonic()):
                log.info("tracker %s is still sending; what it does not send, `prolong track` does", companion.name)

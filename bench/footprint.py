"""What the processes of a live run hold and have used, sampled by a thread: memory (PSS) and CPU seconds of each role."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from time import monotonic

import psutil

ROLES = {  # on a command line
    "buffer": "launch.cli buffer ",
    "learner": "prolong.launch.torchrun ",
    "actor": "launch.cli actor ",
    "engine": "EngineCore",
    "verifier": "prolong.verifiers.workers.worker",
}


@dataclass(frozen=True, slots=True)
class Sample:
    """Sums over the processes of each role that lived then."""

    at: float  # monotonic seconds
    memory_bytes: dict[str, int]  # shared pages in proportion (PSS)
    cpu_s: dict[str, float]


class Footprints:
    """Samples every `every_s` while it is entered: all processes of prolong that descend from this one.

    Without `memory` a sample is cheap enough for ten a second: reading it walks through every mapping.
    """

    def __init__(self, every_s: float = 0.5, *, memory: bool = True) -> None:
        self.samples: list[Sample] = []
        self._every_s, self._memory = every_s, memory
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="footprints", daemon=True)

    def __enter__(self) -> Footprints:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(timeout=10.0)

    def between(self, start: float, end: float) -> list[Sample]:
        """The samples of a stretch of time, in monotonic seconds."""
        return [sample for sample in self.samples if start <= sample.at <= end]

    def processes(self, role: str) -> list[psutil.Process]:
        """The living ones of that role."""
        return [process for name, process in self._find() if name == role]

    def _run(self) -> None:
        while not self._over.wait(self._every_s):
            self.samples.append(self._sample())

    def _sample(self) -> Sample:
        memory, cpu = dict.fromkeys(ROLES, 0), dict.fromkeys(ROLES, 0.0)
        for role, process in self._find():
            try:
                held, used = process.memory_full_info().pss if self._memory else 0, process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            memory[role] += held
            cpu[role] += used.user + used.system
        return Sample(monotonic(), memory, cpu)

    def _find(self) -> list[tuple[str, psutil.Process]]:
        found = []
        for process in psutil.Process().children(recursive=True):
            try:
                line = " ".join(process.cmdline()) + " "
            except psutil.NoSuchProcess:
                continue
            found += [(role, process) for role, word in ROLES.items() if word in line]
        return found

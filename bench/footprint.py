"""Memory (PSS) and CPU seconds of each role of a live run, sampled by a thread."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from time import monotonic

import psutil

# role -> a part of its command line
ROLES = {
    "buffer": "launch.cli buffer ",
    "learner": "prolong.launch.torchrun ",
    "actor": "launch.cli actor ",
    "engine": "EngineCore",
    "verifier": "prolong.verifiers.workers.worker",
}


@dataclass(frozen=True, slots=True)
class FootprintSample:
    """Sums over the processes of each role at one moment."""

    at: float  # monotonic seconds
    memory_bytes: dict[str, int]  # shared pages count in proportion (PSS)
    cpu_s: dict[str, float]


class Footprints:
    """Samples the descendants of this process every `every_s` inside a `with` block.

    Without `memory` ten samples a second cost little; with it, every memory mapping of every process is read.
    """

    def __init__(self, every_s: float = 0.5, *, memory: bool = True) -> None:
        self.samples: list[FootprintSample] = []
        self._every_s, self._memory = every_s, memory
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="footprints", daemon=True)

    def __enter__(self) -> Footprints:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(timeout=10.0)

    def between(self, start: float, end: float) -> list[FootprintSample]:
        """The samples between two moments, in monotonic seconds."""
        return [sample for sample in self.samples if start <= sample.at <= end]

    def processes(self, role: str) -> list[psutil.Process]:
        """The live processes of a role."""
        return [process for name, process in self._find() if name == role]

    def _run(self) -> None:
        while not self._over.wait(self._every_s):
            self.samples.append(self._sample())

    def _sample(self) -> FootprintSample:
        memory, cpu = dict.fromkeys(ROLES, 0), dict.fromkeys(ROLES, 0.0)
        for role, process in self._find():
            try:
                held, used = process.memory_full_info().pss if self._memory else 0, process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            memory[role] += held
            cpu[role] += used.user + used.system
        return FootprintSample(monotonic(), memory, cpu)

    def _find(self) -> list[tuple[str, psutil.Process]]:
        found = []
        for process in psutil.Process().children(recursive=True):
            try:
                line = " ".join(process.cmdline()) + " "
            except psutil.NoSuchProcess:
                continue
            found += [(role, process) for role, word in ROLES.items() if word in line]
        return found

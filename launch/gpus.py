"""The GPUs of this machine: their device files, and what torch can do with them, which a child process tells.

The child keeps CUDA out of this process: one that has opened CUDA cannot fork any more, and holds memory on every card.

    probe_gpus() --starts--> python -m prolong.launch.gpus --one line of JSON--> GpuReport
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import msgspec

from ..common.config.choices import Device

PROBE_S = 90.0  # for the import of torch and a context on every card, on a machine that is busy
_PROBE = "prolong.launch.gpus"


class Gpu(msgspec.Struct, frozen=True, kw_only=True):
    """A GPU that torch sees."""

    name: str
    total_bytes: int
    free_bytes: int  # when it was asked
    capability: tuple[int, int]  # of its compute units


class GpuReport(msgspec.Struct, frozen=True, kw_only=True):
    """What torch says. Without GPUs, `problem` says why there are none."""

    torch: str = ""
    cuda: str = ""  # the version that torch was built for; empty: a build for CPUs
    nccl: str = ""
    gpus: list[Gpu] = []
    problem: str = ""


def visible_gpus(environ: Mapping[str, str], devices: Path = Path("/dev")) -> list[str]:
    """The GPUs that CUDA_VISIBLE_DEVICES names, or else one number per device file."""
    if "CUDA_VISIBLE_DEVICES" in environ:
        return [name for name in environ["CUDA_VISIBLE_DEVICES"].split(",") if name.strip()]
    if (devices / "dxg").exists():
        # Windows' subsystem for Linux has one file for all of them
        return [str(index) for index in range(len(probe_gpus().gpus))]
    return [str(index) for index in range(len(list(devices.glob("nvidia[0-9]*"))))]


def has_gpu() -> bool:
    """Whether this machine has an NVIDIA GPU, as far as its devices tell."""
    return any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/dxg").exists()


def computes_on_gpu(device: Device) -> bool:
    """Whether learner and engines of this machine would compute on a GPU, as `resolve_device` decides in them."""
    if device is Device.auto:
        return has_gpu() and bool(probe_gpus().gpus)
    return device is Device.cuda


def driver_version(file: Path = Path("/proc/driver/nvidia/version")) -> str:
    """The version of the NVIDIA driver, such as 580.65.06; empty without one."""
    try:
        words = file.read_text(encoding="utf-8", errors="replace").split()
    except OSError:
        return ""
    return next((word for word in words if word[:1].isdigit() and word.replace(".", "").isdigit() and "." in word), "")


@cache
def probe_gpus() -> GpuReport:
    """Ask torch in a child process, once; seconds. What goes wrong there is the report's `problem`."""
    try:
        child = subprocess.run([sys.executable, "-m", _PROBE], capture_output=True, text=True, timeout=PROBE_S, check=False)
    except subprocess.TimeoutExpired:
        return GpuReport(problem=f"torch did not say within {PROBE_S:g} s which GPUs there are; does `nvidia-smi` answer?")
    try:
        return msgspec.json.decode(child.stdout.strip().rpartition("\n")[2], type=GpuReport)
    except msgspec.DecodeError:
        last = child.stderr.strip().rpartition("\n")[2]
        return GpuReport(problem=f"torch could not be asked which GPUs there are (exit code {child.returncode}: {last})")


def ask_torch() -> GpuReport:
    """In the child: opens CUDA in this process."""
    import torch

    # torch has no public type for it
    built = torch.version.cuda or ""  # pyright: ignore[reportAttributeAccessIssue]
    found, cuda = str(torch.__version__), torch.cuda
    if not built:
        return GpuReport(torch=found, problem=f"torch {found} is a build for CPUs; install the `gpu` extra")
    try:
        cuda.init()
        cards = [_card(index) for index in range(cuda.device_count())]
        nccl = ".".join(map(str, cuda.nccl.version()))
    except (RuntimeError, AssertionError) as error:
        return GpuReport(torch=found, cuda=built, problem=str(error).strip().splitlines()[0])
    problem = "" if cards else "CUDA_VISIBLE_DEVICES hides all of them"
    return GpuReport(torch=found, cuda=built, nccl=nccl, gpus=cards, problem=problem)


def _card(index: int) -> Gpu:
    import torch

    properties = torch.cuda.get_device_properties(index)
    free_bytes, total_bytes = torch.cuda.mem_get_info(index)
    capability = properties.major, properties.minor
    return Gpu(name=properties.name, total_bytes=total_bytes, free_bytes=free_bytes, capability=capability)


def main() -> int:
    """The child."""
    sys.stdout.write(msgspec.json.encode(ask_torch()).decode() + "\n")
    sys.stdout.flush()
    # the interpreter would dismantle CUDA for seconds
    os._exit(0)


if __name__ == "__main__":
    raise SystemExit(main())

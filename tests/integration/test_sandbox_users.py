"""The sandbox of an ordinary user: no root anywhere, bubblewrap in a user namespace."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import pytest

REPO = Path(__file__).parents[2]
PYTHON = "/usr/bin/python3"
NOBODY = 65534
SCRIPT = """
import json
from prolong.common.errors import UserError
from prolong.verifiers.sandbox.opening import open_sandbox
from prolong.verifiers.sandbox.sandbox import BUBBLEWRAP, JAIL, Sandbox
report = {}
for backend in (BUBBLEWRAP, JAIL):
    try:
        sandbox = open_sandbox(backends=(backend,))
    except UserError as error:
        report[backend.name] = str(error)
        continue
    with sandbox.compiled("int main() { return 0; }") as (compiled, run):
        report[backend.name] = [sandbox.run("print(6 * 7)").stdout.decode(), len(sandbox.proved), compiled.status]
    sandbox.close()
print(json.dumps(report))
"""


def version_of(python: str) -> str:
    command = [python, "-c", "import sys; print(sys.version_info[:2])"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False).stdout.strip()


@pytest.fixture
def home() -> Iterator[Path]:
    """In a folder that every user may enter. That of pytest is closed to them, again with each session that begins."""
    with TemporaryDirectory(prefix="prolong-test-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder) / "home"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become an ordinary user; the other tests run as one already")
@pytest.mark.skipif(
    not os.path.exists(PYTHON) or version_of(PYTHON) != str(sys.version_info[:2]),
    reason=f"{PYTHON} must be of this interpreter's version, and reachable by any user",
)
def test_an_ordinary_user_gets_every_backend(home: Path):
    subprocess.run([PYTHON, "-m", "venv", "--without-pip", "--copies", home], check=True, timeout=250)
    (packages,) = home.glob("lib/python*/site-packages")
    for name in ("common", "verifiers"):
        shutil.copytree(REPO / name, packages / "prolong" / name)
    shutil.copytree(Path(msgspec.__file__).parent, packages / "msgspec")
    done = subprocess.run(
        [home / "bin" / "python", "-c", SCRIPT],
        user=NOBODY,
        group=NOBODY,
        extra_groups=[],
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    expected = ["42\n", 14, "ok"]
    assert report["jail"] == expected
    if "bwrap is not installed" in report["bubblewrap"] or "amespace" in report["bubblewrap"]:
        pytest.skip(f"the jail alone was tested: {report['bubblewrap']}")
    assert report["bubblewrap"] == expected

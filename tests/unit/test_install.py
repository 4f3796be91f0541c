"""`.ci/install`: uv installs what the lock names and the environment lacks; where uv cannot be had, pip does."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# a python that notes the calls of pip instead of running them, and a uv that notes its calls
PYTHON = """#!/usr/bin/env bash
if [ "$1 $2" != "-m pip" ]; then exec {python} "$@"; fi
shift 4
echo "pip $*" >> "{calls}"
"""
UV = """#!/usr/bin/env bash
[ "$1" = --version ] && exit {works}
echo "uv $*" >> "{calls}"
exit {installs}
"""
LOCK = f"absent-of-prolong==1.0\npytest=={version('pytest')}\ntorch==9.9+cpu\nuv==99.9\n"


class Install:
    """One call of the script in an environment of stubs."""

    def __init__(self, folder: Path, *, works: bool = True, installs: bool = True) -> None:
        self.venv, self.lock, self.calls = folder / "venv", folder / "lock", folder / "calls"
        self.lock.write_text(LOCK)
        (self.venv / "bin").mkdir(parents=True)
        self.write("python", PYTHON.format(python=sys.executable, calls=self.calls))
        self.write("uv", UV.format(works=int(not works), installs=int(not installs), calls=self.calls))

    def write(self, name: str, text: str) -> None:
        script = self.venv / "bin" / name
        script.write_text(text)
        script.chmod(script.stat().st_mode | stat.S_IXUSR)

    def run(self, **environment: str) -> str:
        command = ["bash", str(ROOT / ".ci" / "install"), str(self.venv), str(self.lock), "project"]
        env = {name: value for name, value in os.environ.items() if name != "INSTALLER"} | environment
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=True)
        assert (self.venv / ".installed").exists()
        return done.stdout

    def installed(self, installer: str) -> list[str]:
        """The first words of that installer's calls that install from a file of requirements."""
        return [line for line in self.calls.read_text().splitlines() if line.startswith(installer) and " -r " in line]


def test_uv_installs_what_is_missing_and_pip_the_build_of_torch(tmp_path: Path) -> None:
    install = Install(tmp_path)
    out = install.run()
    assert "2 more packages" in out, "pytest is there already; uv counts, torch does not"
    assert len(install.installed("uv")) == 1
    assert install.installed("pip") == []
    calls = install.calls.read_text()
    assert "pip install --no-deps --no-compile torch==9.9+cpu" in calls
    assert "pip install --no-deps uv==99.9" in calls
    assert "pip install --no-deps --no-build-isolation -e project" in calls


@pytest.mark.parametrize(
    ("faults", "environment", "sentence"),
    [
        ({}, {"INSTALLER": "pip"}, "without uv, pip needs minutes"),
        ({"works": False}, {}, "without uv, pip needs minutes"),
        ({"installs": False}, {}, "uv failed; pip takes over"),
    ],
    ids=["pip was asked for", "uv does not start", "uv fails"],
)
def test_pip_installs_where_uv_cannot_be_had(
    tmp_path: Path, faults: dict[str, bool], environment: dict[str, str], sentence: str
) -> None:
    install = Install(tmp_path, **faults)
    assert sentence in install.run(**environment)
    assert len(install.installed("pip")) == 1


def test_comments_of_a_lock_are_no_packages(tmp_path: Path) -> None:
    install = Install(tmp_path)
    install.lock.write_text(f"# a title, with pytest==0\n{LOCK}")
    assert "2 more packages" in install.run()


def test_torch_for_cuda_is_never_replaced_by_the_build_for_a_cpu(tmp_path: Path) -> None:
    install = Install(tmp_path)
    install.lock.write_text("torch==9.9\n")
    install.write("python", PYTHON.format(python=sys.executable, calls=install.calls) + 'case "$*" in *torch*) exit 1;; esac\n')
    with pytest.raises(subprocess.CalledProcessError):
        install.run()
    assert "download.pytorch.org" not in install.calls.read_text()


def test_a_complete_environment_is_left_as_it_is(tmp_path: Path) -> None:
    install = Install(tmp_path)
    install.lock.write_text(f"pytest=={version('pytest')}\n")
    install.run()
    assert install.calls.read_text().split("\n")[:-1] == ["pip install --no-deps --no-build-isolation -e project"]

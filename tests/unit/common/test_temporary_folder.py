"""Folders that do not outlive their processes, however these end."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from prolong.common.temporary_folder import TemporaryFolder

HOLDER = """
import sys
from prolong.common.temporary_folder import TemporaryFolder
folder = TemporaryFolder("test")
print(folder.make(), flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


def of_another_process(*, killed: bool) -> Path:
    """The folder of a process that has ended since."""
    with subprocess.Popen([sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        path = Path(holder.stdout.readline().strip())
        assert path.is_dir()
        if killed:
            holder.kill()
    return path


def test_a_process_that_ends_takes_its_folder_along() -> None:
    assert not of_another_process(killed=False).exists()


def test_the_folder_of_a_killed_process_goes_with_the_next_of_its_kind() -> None:
    left = of_another_process(killed=True)
    (left / "file").touch()
    TemporaryFolder("test").make()
    # its maker may be about to lock it
    assert left.exists()
    os.utime(left, (0, 0))
    TemporaryFolder("other").make()
    assert left.exists()
    TemporaryFolder("test").make()
    assert not left.exists()


def test_a_folder_that_is_held_stays_however_old_it_is() -> None:
    folder = TemporaryFolder("test")
    path = folder.make()
    assert path.stat().st_mode & 0o777 == 0o700
    os.utime(path, (0, 0))
    TemporaryFolder("test").make()
    assert path.exists()
    folder.remove()
    folder.remove()
    assert not path.exists()


def test_without_locks_nothing_is_taken_for_abandoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """NFS without its lock service, Lustre without `-o flock`."""

    def refuse(descriptor: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    folder = TemporaryFolder("test")
    path = folder.make()
    os.utime(path, (0, 0))
    TemporaryFolder("test").make()
    assert path.exists()
    folder.remove()
    assert not path.exists()


def test_what_somebody_else_planted_under_such_a_name_is_left_alone(temporary: Path) -> None:
    target = temporary / "target"
    (target / "kept").mkdir(parents=True)
    (temporary / "prolong-test-link").symlink_to(target)
    os.utime(target, (0, 0))
    TemporaryFolder("test").make()
    assert (target / "kept").exists()


def test_a_forked_child_leaves_the_folder_of_its_parent(temporary: Path) -> None:
    fork = HOLDER.replace("sys.stdin.read()", "import os\nif os.fork():\n    os.wait()\n    assert folder.path.exists()")
    subprocess.run([sys.executable, "-W", "ignore", "-c", fork], check=True, timeout=60, stdout=subprocess.DEVNULL)
    assert list(temporary.iterdir()) == []

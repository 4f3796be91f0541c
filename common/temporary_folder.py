"""A folder in a temporary directory, by default the system's, that does not outlive its process.

The process holds a lock on its folder. The kernel takes the lock away when the process dies, however it dies, and whoever makes
the next folder of the same kind removes those that nobody holds.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import tempfile
import time
import weakref
from pathlib import Path

YOUNG_S = 60.0  # a folder of this age may not be locked yet


class TemporaryFolder:
    """A folder /tmp/prolong-KIND-... that only this user may enter: from `make` to `remove`, or to the end of the process."""

    def __init__(self, kind: str, root: Path | None = None) -> None:
        """`root`: where it lies instead of /tmp."""
        self._kind = kind
        self.path = (root or Path(tempfile.gettempdir())) / f"prolong-{kind}-{secrets.token_hex(8)}"
        self._finalizer: weakref.finalize | None = None

    def make(self) -> Path:
        """Make the folder, after removing those of its kind whose processes were killed."""
        _remove_abandoned(self.path.parent, self._kind)
        self.path.mkdir(mode=0o700)
        lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        self._finalizer = weakref.finalize(self, _remove, self.path, lock, os.getpid())
        # where the file system has no locks, nobody gets one, and what a kill leaves behind stays
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return self.path

    def remove(self) -> None:
        """Remove the folder with all that is in it. Calling it again changes nothing."""
        if self._finalizer is not None:
            self._finalizer()

    def __enter__(self) -> Path:
        return self.make()

    def __exit__(self, *_: object) -> None:
        self.remove()


def _remove(path: Path, lock: int, owner: int) -> None:
    # a forked child that ends leaves its parent's folder alone
    if os.getpid() == owner:
        shutil.rmtree(path, ignore_errors=True)
        os.close(lock)


def _remove_abandoned(root: Path, kind: str) -> None:
    for path in root.glob(f"prolong-{kind}-*"):
        # it is held, belongs to another user, or has just been removed
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > YOUNG_S:
                lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(path, ignore_errors=True)
                finally:
                    os.close(lock)

"""Files that a reader sees whole or not at all: written under another name in the same folder, then renamed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

READABLE = 0o666  # before the umask, as `open` creates files


@contextmanager
def atomic_replacement(path: Path) -> Iterator[Path]:
    """Yield a scratch path in the folder of `path`: renamed to `path` when the block ends, removed when the block raises."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield scratch
        scratch.replace(path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise


def write_atomically(path: Path, content: str | bytes, *, mode: int = READABLE, durable: bool = False) -> None:
    """Replace `path` by a file of this content; text is written as UTF-8. The folder must exist.

    `mode`: the permissions of the file from its first moment on, less the umask. `durable`: wait until the content is on the
    disk before the rename, so that a power cut leaves the former file or the new one.
    """
    encoded = content.encode("utf-8") if isinstance(content, str) else content
    with atomic_replacement(path) as scratch:
        # a process of this id may have died here: its scratch file must lend neither its content nor its permissions
        scratch.unlink(missing_ok=True)
        with open(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(encoded)
            if durable:
                file.flush()
                os.fsync(file.fileno())

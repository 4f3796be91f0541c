"""The folder of an engine's sockets: it goes with the engine, or with the next one where the actor was killed.

vLLM binds sockets under random names in VLLM_RPC_BASE_PATH, by default the temporary folder of the system. ZeroMQ unlinks them
in a thread that the end of an actor does not wait for, and one that is killed does not have.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ....common.temporary_folder import TemporaryFolder

MAX_SOCKET_PATH = 107  # bytes, in Linux
_NAME = 36  # characters of vLLM's names, which are UUIDs
_VARIABLE = "VLLM_RPC_BASE_PATH"
_SHORT = Path("/tmp")


def socket_folder() -> TemporaryFolder:
    """Not made yet. In /tmp where the path of a socket would be too long in the temporary folder of this process."""
    folder = TemporaryFolder("vllm")
    fits = len(os.fsencode(folder.path)) + 1 + _NAME <= MAX_SOCKET_PATH
    return folder if fits else TemporaryFolder("vllm", _SHORT)


@contextmanager
def sockets_in(folder: TemporaryFolder) -> Iterator[None]:
    """Make the folder, where vLLM puts the sockets of an engine that starts in the block; remove it if the start fails.

    A VLLM_RPC_BASE_PATH of the user's stays as it is.
    """
    if _VARIABLE in os.environ:
        yield
        return
    os.environ[_VARIABLE] = str(folder.make())
    try:
        yield
    except BaseException:
        folder.remove()
        raise
    finally:
        del os.environ[_VARIABLE]

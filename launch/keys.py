"""`prolong keys`: make the keys that a buffer beyond loopback needs, and print which files to copy where."""

from __future__ import annotations

import sys
from pathlib import Path

from ..common.errors import UserError
from ..common.transport.keys import make_keys

MAX_CLIENTS = 10_000


def write_run_keys(folder: Path, names: list[str], num_clients: int) -> int:
    """Make a key pair for each name and for client-1 ... client-N; 0. Raises: UserError."""
    if not 0 <= num_clients <= MAX_CLIENTS:
        raise UserError(f"--clients {num_clients}: expected from 0 to {MAX_CLIENTS}")
    names = [*dict.fromkeys([*names, *(f"client-{number}" for number in range(1, num_clients + 1))])]
    added = make_keys(folder, names)
    kept = [name for name in names if name not in added]
    lines = [
        f"{folder} has the keys of the buffer and the other processes of this host: buffer.keys={folder}",
        *(f"{name}: copy {folder / 'hosts' / name} to its host, as {folder} there; then delete it here" for name in added),
        *(f"{name}: has a key already (to replace it: delete {folder / 'allowed' / name}.pub first)" for name in kept),
        f"keep {folder / 'server.key'} here, and every *.key secret; {folder / 'allowed'} lists who may connect",
    ]
    sys.stdout.write("\n".join(lines) + "\n")
    return 0

"""A run whose processes a test starts and ends, looked at through the Status of its buffer."""

from __future__ import annotations

from pathlib import Path

from prolong.buffer.client.observer import request_status
from prolong.common.messages import Status

from tests.support.runs import Run, free_port

BATCH = 4  # groups, as in runs.SMALL


class WatchedRun:
    """The run, and the address of its buffer."""

    def __init__(self, root: Path, name: str, *settings: str) -> None:
        self.address = f"tcp://127.0.0.1:{free_port()}"
        self.run = Run(root, name, [*settings, f"buffer.address={self.address}"])

    def status(self) -> Status:
        """Balanced, and with as many trained groups as steps allow, at any time."""
        status = request_status(self.address, 20.0)
        assert status.balanced
        assert status.ledger["trained"] == status.version * BATCH, status.ledger
        return status

    def peer(self, name: str) -> dict[str, float | str]:
        return self.status().peers.get(name, {})

    def number(self, name: str, key: str) -> float:
        return float(self.peer(name).get(key, 0.0))

"""Admission of clients by their public keys: libzmq asks the gate about each new connection before it passes on a frame.

    client --CURVE handshake--> libzmq --ZAP request--> Gate --200 or 400--> libzmq --frames--> the guarded socket

The loop of the guarded socket calls `answer` between two bursts of frames. Until it does, no client is admitted.
Source: https://rfc.zeromq.org/spec/27/ (ZAP)
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from time import time_ns

import zmq
from zmq.utils import z85

from ..errors import ConfigError
from .keys import read_allowed

Admitted = Callable[[], Mapping[bytes, str]]  # public key (Z85) -> name of each client that may connect now

log = logging.getLogger(__name__)

ENDPOINT = "inproc://zeromq.zap.01"
VERSION = b"1.0"
BURST = 64  # answers per call
SETTLED_NS = 1_000_000_000  # a folder that changed a moment ago may change again without another time stamp
NUM_FRAMES = 7  # version, request id, domain, address, routing id, mechanism, public key


class AllowedFolder:
    """The keys in a folder, read again when it changes: added and removed keys count from the next connection on."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read_at_ns = -1  # time stamp of the folder when its keys were read
        self._names: dict[bytes, str] = {}

    def __call__(self) -> Mapping[bytes, str]:
        """The keys that may connect now, with the names of their files."""
        try:
            changed_ns = self._folder.stat().st_mtime_ns
            if changed_ns != self._read_at_ns:
                self._names = read_allowed(self._folder)
                self._read_at_ns = changed_ns if time_ns() - changed_ns > SETTLED_NS else -1
        except (OSError, ConfigError) as error:
            log.warning("allowed keys cannot be read, the keys known before stay: %s", error)
        return self._names


class Gate:
    """Admits connections to the sockets of one context by their keys. Made before these sockets are bound."""

    def __init__(self, context: zmq.Context, admitted: Admitted) -> None:
        """`admitted` is called for each request; the name that it gives a key is the User-Id of the client's frames."""
        self.socket = context.socket(zmq.REP)
        self.socket.bind(ENDPOINT)
        self._admitted = admitted
        self._num_refused = 0

    def answer(self) -> int:
        """Answer the requests that wait; returns how many were refused. Never blocks."""
        num_refused = 0
        for _ in range(BURST):
            try:
                frames = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                break
            name = self._name_of(frames)
            if name is None:
                num_refused += 1
                self._log_refusal(frames)
            status = (b"200", b"OK", name.encode()) if name is not None else (b"400", b"unknown key", b"")
            self.socket.send_multipart([VERSION, frames[1] if len(frames) > 1 else b"", *status, b""], zmq.NOBLOCK)
        return num_refused

    def keys(self) -> list[str]:
        """The public keys (Z85) that may connect now. Never blocks."""
        return [key.decode() for key in self._admitted()]

    def close(self) -> None:
        """Close the gate, after the sockets that it guards."""
        self.socket.close(linger=0)

    def _name_of(self, frames: list[bytes]) -> str | None:
        if len(frames) != NUM_FRAMES or frames[0] != VERSION or frames[5] != b"CURVE":
            return None
        return self._admitted().get(z85.encode(frames[6]))

    def _log_refusal(self, frames: list[bytes]) -> None:
        """Log the 1st, 2nd, 4th, 8th ... refusal, so that a flood does not fill the disk."""
        self._num_refused += 1
        if self._num_refused.bit_count() == 1:
            address = frames[3].decode(errors="replace") if len(frames) == NUM_FRAMES else "?"
            log.warning(
                "refused a connection from %s: its key is not in the folder allowed/ of the buffer's buffer.keys (%d so far)",
                address,
                self._num_refused,
            )

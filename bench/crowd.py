"""Many clients of one ROUTER in one thread: plain TCP connections that speak ZMTP 3.0; a DEALER for each takes three files.

Each greets, beats at its own times, and answers pings. Source: https://rfc.zeromq.org/spec/23/
"""

from __future__ import annotations

import heapq
import select
import socket
import struct
from time import monotonic

SIGNATURE = b"\xff" + bytes(8) + b"\x7f"
GREETING = SIGNATURE + b"\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
COMMAND, LONG = 0x04, 0x02
AT_ONCE = 64  # connections that are made before the next are begun


class Connection:
    """One client: what arrived of the next frame, and when its heartbeat left."""

    def __init__(self, stream: socket.socket, hello: bytes) -> None:
        self.stream, self.hello = stream, hello
        self.received = bytearray()
        self.is_up = self.is_welcome = False
        self.sent_s: float | None = None


class Crowd:
    """All clients of one process."""

    def __init__(self, address: str, hellos: list[bytes], beat: bytes, every_s: float) -> None:
        """`hellos`: the first message of each client. `beat`: what each sends `every_s` seconds from then on."""
        host, _, port = address.removeprefix("tcp://").rpartition(":")
        self._address, self._hellos, self._beat, self._every_s = (host, int(port)), hellos, _frame(beat), every_s
        self._epoll = select.epoll()
        self._connections: dict[int, Connection] = {}
        self._due: list[tuple[float, int]] = []  # heap of (time of the next heartbeat, file)
        self._num_welcome = 0
        self.num_answers = 0
        self.waits_s: list[float] = []

    def greet(self, timeout_s: float) -> None:
        """Connect and say Hello, a few at a time, until every client has an answer."""
        deadline = monotonic() + timeout_s
        for index, hello in enumerate(self._hellos):
            stream = socket.create_connection(self._address, timeout=timeout_s)
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            stream.sendall(GREETING)
            stream.sendall(_ready(f"actor-{index}".encode()))
            stream.setblocking(False)
            self._connections[stream.fileno()] = Connection(stream, _frame(hello))
            self._epoll.register(stream.fileno(), select.EPOLLIN)
            while self._num_welcome < len(self._connections) - AT_ONCE:
                self._go_on(deadline)
        while self._num_welcome < len(self._connections):
            self._go_on(deadline)
        self.forget()

    def _go_on(self, deadline: float) -> None:
        self._beat_due()
        self._receive(0.01)
        if monotonic() > deadline:
            raise RuntimeError(f"{len(self._connections) - self._num_welcome} clients were not answered in time")

    def forget(self) -> None:
        """Count answers from now on."""
        self.num_answers = 0
        self.waits_s.clear()

    def run(self, seconds: float) -> None:
        """Beat and listen."""
        deadline = monotonic() + seconds
        while monotonic() < deadline:
            self._beat_due()
            wait_s = max(0.0, self._due[0][0] - monotonic()) if self._due else seconds
            self._receive(min(wait_s, 0.01))

    def _beat_due(self) -> None:
        now = monotonic()
        while self._due and self._due[0][0] <= now:
            due_s, file = heapq.heappop(self._due)
            connection = self._connections[file]
            if connection.sent_s is None:
                connection.sent_s = now
                connection.stream.send(self._beat)
            heapq.heappush(self._due, (max(due_s + self._every_s, now), file))

    def _receive(self, wait_s: float) -> None:
        for file, _ in self._epoll.poll(wait_s):
            connection = self._connections[file]
            part = connection.stream.recv(1 << 16)
            if not part:
                raise RuntimeError(f"the buffer closed one of {len(self._connections)} connections")
            connection.received += part
            self._read(connection)

    def _read(self, connection: Connection) -> None:
        """Take the whole frames that have arrived."""
        received = connection.received
        if not connection.is_up:
            if len(received) < len(GREETING):
                return
            del received[: len(GREETING)]
            connection.is_up = True
        while len(received) >= 2:
            flags = received[0]
            start = 9 if flags & LONG else 2
            if len(received) < start:
                return
            size = int.from_bytes(received[1:start], "big")
            if len(received) < start + size:
                return
            body = bytes(received[start : start + size])
            del received[: start + size]
            if flags & COMMAND:
                self._answer_command(connection, body)
            else:
                self._count(connection)

    def _answer_command(self, connection: Connection, body: bytes) -> None:
        if body.startswith(b"\x05READY"):
            connection.stream.send(connection.hello)
        elif body.startswith(b"\x04PING"):
            pong = b"\x04PONG" + body[7:]
            connection.stream.send(bytes([COMMAND, len(pong)]) + pong)

    def _count(self, connection: Connection) -> None:
        self.num_answers += 1
        if not connection.is_welcome:
            connection.is_welcome = True
            self._num_welcome += 1
            heapq.heappush(self._due, (monotonic() + self._every_s, connection.stream.fileno()))
        elif connection.sent_s is not None:
            self.waits_s.append(monotonic() - connection.sent_s)
            connection.sent_s = None

    def close(self) -> None:
        for connection in self._connections.values():
            connection.stream.close()
        self._epoll.close()


def _ready(identity: bytes) -> bytes:
    body = b"\x05READY" + _property(b"Socket-Type", b"DEALER") + _property(b"Identity", identity)
    return bytes([COMMAND, len(body)]) + body


def _property(name: bytes, value: bytes) -> bytes:
    return bytes([len(name)]) + name + struct.pack(">I", len(value)) + value


def _frame(body: bytes) -> bytes:
    return (bytes([0, len(body)]) if len(body) < 256 else b"\x02" + struct.pack(">Q", len(body))) + body

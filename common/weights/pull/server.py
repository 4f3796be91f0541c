"""The socket that weights are pulled from: of the learner, of a relay, or of an actor that serves what it holds.

    store.answer --> Reader (readers.py) --pieces--> puller

One thread serves all pullers in turn, a piece each. It waits in one poll and holds the interpreter's lock for short: copies,
encryption and transfer go on without it. A puller that does not read costs FRAMES_QUEUED pieces and one chunk.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from contextlib import suppress
from time import clock_gettime, monotonic, pthread_getcpuclockid

import zmq

from ...errors import WireError
from ...transport.gate import Gate
from ...transport.keys import KEY_CHARACTERS, ClientKeys
from ...transport.quarantine import Quarantine
from ...transport.sockets import bind_router, check_address, endpoint_of
from ...transport.wire import Decoder, encode
from ...types import WeightSource
from .pace import Pace
from .protocol import MAX_HEADER_BYTES, MAX_WANTED, FromPuller, Granted, Later, PullMessage, Refusal
from .readers import MAX_READERS, Bundle, Reader, may_have
from .store import ChunkStore

log = logging.getLogger(__name__)

FRAMES_QUEUED = 8  # messages that ZeroMQ holds for one puller, each of one piece at most
RECEIVED_BURST = 64  # frames that are read before pieces are sent
SENT_BURST = 8  # pieces that are sent before frames are read
LATER_S = 1.0  # silence after which a puller that waits gets a sign of life
PARKED_S = 120.0  # what the store still lacks then is refused
IDLE_S = 300.0  # a puller that wants nothing for so long is forgotten
RETRY_S = 0.05  # after ZeroMQ had no room for a puller, unless it says before that it read something
SCAN_S = 0.01  # between two looks for what was parked
JOIN_S = 5.0


class WeightServer:
    """Serves one ChunkStore to the pullers whose keys are admitted. `counters` says what was sent, refused and dropped.

    Example:
        server = WeightServer("10.0.0.1", 0, load_client_keys("keys"), Pace(max_mb_s=0.0))
        server.admit(readers.keys)     # of WeightReaders
        server.serve(store)
        server.start()                 # server.source goes to the buffer
        server.close()
    """

    def __init__(self, host: str, port: int, keys: ClientKeys | None, pace: Pace) -> None:
        """Bind the socket. `host`: an address of this machine that pullers can reach. `keys`: this process's own client pair.

        Raises: AddressInUse; ConfigError for an address that cannot be bound, or one beyond loopback without keys.
        """
        self.counters: Counter[str] = Counter()
        self._context = zmq.Context()
        self._names: Mapping[bytes, str] = {}  # admitted keys, by themselves
        self._gate = Gate(self._context, lambda: self._names) if keys is not None else None
        secret = keys.secret if keys is not None else None
        try:
            self._router = bind_router(
                self._context,
                _numeric(host, port, has_keys=keys is not None),
                MAX_HEADER_BYTES,
                secret,
                frames_behind=FRAMES_QUEUED,
                setting="weights.host and weights.port",
            )
        except Exception:
            self._end_context()
            raise
        bound_port = endpoint_of(self._router).rpartition(":")[2]
        self.source = WeightSource(endpoint=f"tcp://{host}:{bound_port}", key=keys.public.decode() if keys is not None else "")
        self._decoder = Decoder[FromPuller](FromPuller, MAX_HEADER_BYTES)
        self._quarantine = Quarantine()
        self._pace = pace
        self._store: ChunkStore | None = None
        self._readers: dict[bytes, Reader] = {}
        self._turns: deque[Reader] = deque()  # the next one to be served first
        self._progressed = False  # the store has more than when parked wants were last looked at
        self._scanned_at = self._ticked_at = 0.0
        self._scanned_version = -1
        self._closing = threading.Event()
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._wake_reader.setblocking(False)
        self._wake_writer.setblocking(False)
        self._thread: threading.Thread | None = None

    def admit(self, keys: Iterable[str]) -> None:
        """Let exactly these public keys (Z85) in from now on; others that are connected get nothing more. Any thread."""
        named = list(keys)
        self._names = {key.encode(): key for key in named if len(key) == KEY_CHARACTERS and key.isascii()}
        self._count("malformed_keys", len(named) - len(self._names))

    @property
    def is_running(self) -> bool:
        """Whether its thread runs: from `start` until `close`, or until it failed."""
        return self._thread is not None and self._thread.is_alive()

    def serve(self, store: ChunkStore | None) -> None:
        """Serve this store from now on, in place of the one before; None: nothing, and pullers wait. Any thread."""
        self._store = store
        if store is not None:
            store.subscribe(self._note_progress)
        self._note_progress()

    def start(self) -> None:
        """Start the thread; once."""
        assert self._thread is None, "start is called once"
        self._thread = threading.Thread(target=self._run, name="weight-server", daemon=True)
        self._thread.start()

    @property
    def cpu_s(self) -> float:
        """CPU seconds of the serving thread: the part of the work that may hold the interpreter's lock."""
        ident = self._thread.ident if self._thread is not None and self._thread.is_alive() else None
        return clock_gettime(pthread_getcpuclockid(ident)) if ident is not None else 0.0

    def close(self) -> None:
        """Stop serving. Pullers find another source, or this one when it is back. A second call does nothing."""
        if self._closing.is_set():
            return
        self._closing.set()
        self._wake()
        if self._thread is None:
            self._end()
        else:
            self._thread.join(JOIN_S)

    def _count(self, name: str, num: int = 1) -> None:
        if num:
            self.counters[f"weights/{name}"] += num

    def _note_progress(self) -> None:
        if not self._progressed:
            self._progressed = True
            self._wake()

    def _wake(self) -> None:
        with suppress(OSError):  # a byte is there already, or the server is closed
            self._wake_writer.send(b"\0")

    # --- the server's thread ------------------------------------------------------------------------------------------

    def _run(self) -> None:
        """Serve until `close`.

        Consumes: requests, admissions, progress of the store. Blocks on: the sockets, in one poll. Unblocked by: any of them,
        the pace, and once a second while a puller waits. Stops when: `close` was called.
        """
        poller = zmq.Poller()
        for source in (self._router, self._wake_reader, *([self._gate.socket] if self._gate is not None else [])):
            poller.register(source, zmq.POLLIN)
        try:
            while not self._closing.is_set():
                poller.poll(self._timeout_ms(monotonic()))
                if self._gate is not None:
                    self._count("refused_keys", self._gate.answer())
                with suppress(BlockingIOError):
                    self._wake_reader.recv(4096)
                self._receive_burst()
                now = monotonic()
                self._unpark(now)
                self._send_burst(now)
                self._tick(now)
        except Exception:
            log.exception("the server of weights failed; pullers go to other sources")
        finally:
            self._end()

    def _timeout_ms(self, now: float) -> int | None:
        """Until something is due; None: nothing is."""
        waits = [LATER_S] if any(reader.is_pending for reader in self._readers.values()) else []
        if any(reader.is_ready(now) for reader in self._turns):
            waits.append(self._pace.wait_s(now))
        waits += [reader.blocked_until - now for reader in self._turns if reader.blocked_until > now]
        if self._progressed:
            waits.append(self._scanned_at + SCAN_S - now)
        return max(0, -int(-1000 * min(waits) // 1)) if waits else None

    def _receive_burst(self) -> None:
        for _ in range(RECEIVED_BURST):
            try:
                frames = self._router.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            self._receive(frames, monotonic())

    def _receive(self, frames: list[zmq.Frame], now: float) -> None:
        sender = frames[0].bytes
        if self._quarantine.holds(sender, now):
            self._count("rejected_frames")
            return
        if self._gate is not None and str(frames[-1].get("User-Id")).encode() not in self._names:
            # its key was admitted when it connected, and is not any more
            self._count("refused_frames")
            self._forget(sender)
            return
        try:
            message = self._decoder.decode(frames[1].bytes if len(frames) == 2 else b"")
        except WireError as error:
            self._reject(sender, error, now)
            return
        reader = self._readers.get(sender) or self._meet(sender, now)
        if reader is None:
            self._refuse(sender, message, "too many pullers")
            return
        reader.heard_at, reader.blocked_until = now, 0.0
        reader.granted = max(reader.granted, message.granted)
        if isinstance(message, Granted):
            return
        reader.progressed_at = now
        self._count("dropped_wants", reader.want(message))
        if reader.num_wanted > MAX_WANTED:
            self._count("dropped_wants", reader.drop_wants())
            self._refuse(sender, message, f"more than {MAX_WANTED} chunks wanted at once")

    def _reject(self, sender: bytes, error: WireError, now: float) -> None:
        """Count every malformed frame; log the 1st, 2nd, 4th, 8th ... so that a flood does not fill the disk."""
        self._count("rejected_frames")
        if self._quarantine.strike(sender, now):
            self._count("quarantines")
            self._forget(sender)
        num_rejected = self.counters["weights/rejected_frames"]
        if num_rejected.bit_count() == 1:
            log.warning("dropped a frame of a puller (%d so far): %s", num_rejected, error)

    def _refuse(self, sender: bytes, message: PullMessage, reason: str) -> None:
        self._count("refused_requests")
        self._send(sender, Bundle((encode(Refusal(request=message.request, reason=reason)),), 0, 0))

    def _meet(self, sender: bytes, now: float) -> Reader | None:
        """A reader for a new connection; None when there are too many."""
        if len(self._readers) >= MAX_READERS:
            idle = min((r for r in self._readers.values() if not r.is_pending), key=lambda r: r.heard_at, default=None)
            if idle is None:
                return None
            self._forget(idle.routing_id)
        reader = self._readers[sender] = Reader(sender, now)
        self._turns.append(reader)
        return reader

    def _forget(self, sender: bytes) -> None:
        reader = self._readers.pop(sender, None)
        if reader is not None:
            self._count("dropped_wants", reader.drop_wants())
            self._turns.remove(reader)

    def _unpark(self, now: float) -> None:
        """Ask the store again for parked wants that it may have now."""
        if not self._progressed or now < self._scanned_at + SCAN_S:
            return
        self._progressed, self._scanned_at = False, now
        store = self._store
        if store is None:
            return
        everything, self._scanned_version = store.version != self._scanned_version, store.version
        for reader in self._turns:
            reader.unpark([want for want in reader.parked if everything or may_have(store, want)])

    def _send_burst(self, now: float) -> None:
        """Send a piece to each puller in turn, as far as their grants and the pace allow."""
        num_sent = num_idle = 0
        while num_sent < SENT_BURST and num_idle < len(self._turns) and self._pace.wait_s(now) == 0.0:
            reader = self._turns[0]
            self._turns.rotate(-1)
            if reader.is_ready(now) and self._serve_next(reader, now):
                num_sent, num_idle = num_sent + 1, 0
            else:
                num_idle += 1

    def _serve_next(self, reader: Reader, now: float) -> bool:
        """Send one message to a puller; False when there is none, or no room for it."""
        message = reader.unsent or reader.compose(self._store)
        if message is None:
            return False
        reader.unsent = None
        sent = self._send(reader.routing_id, message)
        if sent is None:
            self._count("lost_pullers")
            self._forget(reader.routing_id)
            return False
        if not sent:
            reader.unsent, reader.blocked_until = message, now + RETRY_S
            return False
        reader.sent += message.num_bytes
        reader.sent_at = reader.progressed_at = now
        self._pace.spend(message.num_bytes, now)
        self._count("sent_bytes", message.num_bytes)
        self._count("sent_bodies", message.num_bodies)
        self._count("sent_messages")
        self._count("refused_requests", message.refuses)
        return True

    def _send(self, routing_id: bytes, message: Bundle) -> bool | None:
        """True: ZeroMQ has it. False: no room. None: the connection is gone."""
        try:
            self._router.send_multipart((routing_id, *message.frames), zmq.NOBLOCK)
        except zmq.Again:
            return False
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            return None
        return True

    def _tick(self, now: float) -> None:
        """Once a second: signs of life, limits of parked wants, pullers that are gone."""
        if now < self._ticked_at + LATER_S:
            return
        self._ticked_at = now
        for reader in list(self._readers.values()):
            if not reader.is_pending:
                if now > reader.heard_at + IDLE_S:
                    self._forget(reader.routing_id)
                continue
            if reader.parked and now > reader.progressed_at + PARKED_S:
                self._count("expired_wants", reader.drop_wants())
                self._send(reader.routing_id, _refusal(reader, f"not there after {PARKED_S:g} s"))
                continue
            # a new version may have taken the place of what is parked
            reader.unpark(list(reader.parked))
            if now > reader.sent_at + LATER_S and reader.unsent is None:
                alive = self._send(reader.routing_id, Bundle((encode(Later(request=reader.request)),), 0, 0))
                if alive is None:
                    self._count("lost_pullers")
                    self._forget(reader.routing_id)

    def _end(self) -> None:
        self._router.close(linger=0)
        self._end_context()
        self._wake_reader.close()
        self._wake_writer.close()

    def _end_context(self) -> None:
        if self._gate is not None:
            self._gate.close()
        self._context.term()


def _refusal(reader: Reader, reason: str) -> Bundle:
    return Bundle((encode(Refusal(request=reader.request, reason=reason)),), 0, 0)


def _numeric(host: str, port: int, *, has_keys: bool) -> str:
    """The address to bind: ZeroMQ binds to addresses, not to names of hosts."""
    address = f"tcp://{host}:{port}"
    check_address(address, has_keys=has_keys, setting="weights.host and weights.port")
    with suppress(OSError):
        found = socket.getaddrinfo(host.strip("[]"), port, socket.AF_INET, socket.SOCK_STREAM)
        return f"tcp://{found[0][4][0]}:{port}"
    return address

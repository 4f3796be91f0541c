"""A puller's connections to one source: what was asked for on each, what came, and what the source may still send."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from dataclasses import replace
from time import monotonic

import zmq
from zmq.utils.monitor import recv_monitor_message

from ...errors import ConfigError, WeightsError, WireError
from ...transport.keys import ClientKeys
from ...transport.sockets import REFUSED, WATCHED, close_watched, connect_dealer
from ...transport.wire import Decoder, encode
from ...types import WeightSource
from .fetch import Arriving, Malformed
from .pace import Pace
from .protocol import (
    CATALOG,
    MAX_FRAME_BYTES,
    MAX_HEADER_BYTES,
    PIECE_BYTES,
    CatalogWanted,
    ChunksWanted,
    FromServer,
    Granted,
    Piece,
    Pieces,
    PullMessage,
)
from .window import Window

MESSAGES_AHEAD = 64  # that wait to be read, of all connections; a server that keeps to the grants sends fewer
RECEIVED_BURST = 32  # messages that are read from a connection before others have their turn
EVENTS = WATCHED | zmq.EVENT_CONNECT_RETRIED


class SourceLost(WeightsError):
    """A source cannot be reached, refused, fell silent, or sent what it should not."""


class Stream:
    """One connection to a source."""

    def __init__(self, dealer: zmq.Socket) -> None:
        self.dealer, self.monitor = dealer, dealer.get_monitor_socket()
        self.arriving: dict[int, Arriving] = {}
        self.received = self.granted = 0  # bytes of bodies since the connection was made

    @property
    def num_expected(self) -> int:
        """Bytes that are expected of what was asked for."""
        return sum(body.expected_bytes for body in self.arriving.values())

    def events(self) -> Iterator[int]:
        """What the monitor reports."""
        while self.monitor.poll(0):
            yield recv_monitor_message(self.monitor)["event"]


class Link:
    """The connections to one source. One thread at a time uses it."""

    def __init__(
        self, context: zmq.Context, source: WeightSource, keys: ClientKeys | None, window: Window, num_streams: int, pace: Pace
    ) -> None:
        """Connect in the background. `keys`: the puller's own pair. Raises SourceLost when the source cannot be asked."""
        self.window, self.request = window, 0
        self.heard_at = self.progressed_at = monotonic()
        self._pace = pace
        self._decoder = Decoder[FromServer](FromServer, MAX_HEADER_BYTES)
        self.streams: list[Stream] = []
        try:
            for _ in range(num_streams):
                dealer = connect_dealer(
                    context,
                    source.endpoint,
                    MAX_FRAME_BYTES,
                    keys=_keys_for(source, keys),
                    watch=EVENTS,
                    frames_ahead=max(4, MESSAGES_AHEAD // num_streams),
                    setting="address of a source of weights",
                )
                self.streams.append(Stream(dealer))
        except ConfigError as error:
            self.close()
            raise SourceLost(str(error)) from error

    def close(self) -> None:
        """Drop the connections, and what is on its way."""
        while self.streams:
            close_watched(self.streams.pop().dealer, linger_s=0.0)

    def is_broken(self) -> bool:
        """Whether a connection that was idle is gone."""
        return any(event != zmq.EVENT_HANDSHAKE_SUCCEEDED for stream in self.streams for event in stream.events())

    def begin(self, request: int) -> None:
        """A pull begins: answers to earlier ones are ignored from now on."""
        self.request = request
        self.heard_at = self.progressed_at = monotonic()
        self.window.note_pause()

    def grant(self, stream: Stream, now: float) -> int:
        """What the server may have sent on this connection; no more than before while the pace forbids it."""
        if self._pace.wait_s(now) == 0.0:
            stream.granted = max(stream.granted, stream.received + self.window.stream_bytes())
        return stream.granted

    def grant_more(self, stream: Stream, now: float) -> None:
        """Tell the server that it may go on, once half of the window is used up."""
        size = self.window.stream_bytes()
        if stream.arriving and stream.granted - stream.received <= size // 2:
            before = stream.granted
            if self.grant(stream, now) > before:
                self._send(stream, Granted(request=self.request, granted=stream.granted))

    def ask_catalog(self, version: int, body: Arriving, now: float) -> None:
        """Ask for the catalog of a version, on the first connection."""
        stream = self.streams[0]
        stream.arriving[CATALOG] = body
        self._send(stream, CatalogWanted(request=self.request, version=version, granted=self.grant(stream, now)))

    def ask(self, stream: Stream, wanted: list[Arriving], *, version: int, session: bytes, now: float) -> None:
        """Ask for chunks."""
        stream.arriving |= {body.index: body for body in wanted}
        granted = self.grant(stream, now)
        for have in sorted({body.have for body in wanted}):
            indices = [body.index for body in wanted if body.have == have]
            wants = ChunksWanted(
                request=self.request, version=version, session=session, have=have, indices=indices, granted=granted
            )
            self._send(stream, wants)

    def _send(self, stream: Stream, message: PullMessage) -> None:
        """Raises SourceLost for a connection that was refused meanwhile: ZeroMQ has nowhere to put a message then."""
        try:
            stream.dealer.send(encode(message), zmq.NOBLOCK)
        except zmq.Again:
            self._check(stream.events())
            raise SourceLost("it takes no more messages") from None

    def pause_s(self, now: float) -> float:
        """Seconds until more may be granted; a long time when it is not the pace that matters."""
        return self._pace.wait_s(now) or 1e6

    def wait(self, timeout_s: float, also: socket.socket) -> None:
        """Wait until something comes, or `also` can be read. Raises SourceLost when a connection broke or was refused."""
        poller = zmq.Poller()
        for source in (also, *(part for stream in self.streams for part in (stream.dealer, stream.monitor))):
            poller.register(source, zmq.POLLIN)
        ready = dict(poller.poll(max(0, int(1000 * timeout_s) + 1)))
        for stream in self.streams:
            if stream.monitor in ready:
                self._check(stream.events())

    def receive(self, stream: Stream, now: float) -> Iterator[PullMessage | Arriving]:
        """The bodies that became complete on this connection, and messages that are not about bodies.

        Raises Malformed for anything that the protocol does not allow.
        """
        for _ in range(RECEIVED_BURST):
            try:
                frames = stream.dealer.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            try:
                message = self._decoder.decode(frames[0].bytes)
            except WireError as error:
                raise Malformed(str(error)) from error
            if isinstance(message, Pieces):
                payload = frames[1].buffer if len(frames) == 2 else b""
                assert isinstance(payload, bytes | memoryview)
                yield from self._take_pieces(stream, message, memoryview(payload), now)
            elif message.request == self.request:
                self.heard_at = now
                yield message

    def _take_pieces(self, stream: Stream, message: Pieces, payload: memoryview, now: float) -> Iterator[Arriving]:
        if sum(piece.num_bytes for piece in message.pieces) != len(payload):
            raise Malformed(f"{len(message.pieces)} pieces of other sizes than the {len(payload)} bytes that came")
        stream.received += len(payload)
        if stream.received > stream.granted + PIECE_BYTES:
            raise Malformed(f"{stream.received} bytes came, {stream.granted} were granted")
        self._pace.spend(len(payload), now)
        # before what came is worked on, so that the server need not wait for that
        self.grant_more(stream, now)
        if message.request != self.request:
            return
        self.heard_at = self.progressed_at = now
        self.window.note_bytes(len(payload), now)
        start = 0
        for piece in message.pieces:
            body = self._arrived(stream, piece, payload[start : start + piece.num_bytes])
            start += piece.num_bytes
            if body is not None:
                yield body

    def _arrived(self, stream: Stream, piece: Piece, data: memoryview) -> Arriving | None:
        """The body that this piece completes."""
        body = stream.arriving.get(piece.index)
        if body is None:
            raise Malformed(f"body {piece.index}, which was not asked for")
        if not body.add(piece, data):
            return None
        del stream.arriving[piece.index]
        return body

    def give_back(self) -> Iterable[int]:
        """The chunks that were asked for and did not come whole; nobody waits for them any more."""
        indices = [index for stream in self.streams for index in stream.arriving if index != CATALOG]
        for stream in self.streams:
            stream.arriving.clear()
        return indices

    def _check(self, events: Iterable[int]) -> None:
        for event in events:
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self.heard_at = monotonic()
            elif event & REFUSED:
                raise SourceLost("the source refused the connection: it does not know this process's key, or has another one")
            else:
                raise SourceLost("nobody listens there" if event == zmq.EVENT_CONNECT_RETRIED else "the connection broke")


def _keys_for(source: WeightSource, keys: ClientKeys | None) -> ClientKeys | None:
    """The puller's pair and the key of this source. A run has keys everywhere or nowhere. Raises SourceLost."""
    if (keys is None) != (not source.key):
        raise SourceLost(
            f"the source has {'no' if not source.key else 'a'} key, and this process {'has one' if keys else 'none'}"
        )
    return None if keys is None else replace(keys, buffer=source.key.encode())

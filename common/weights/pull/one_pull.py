"""One pull: the catalog, then every chunk that is missing, from one source after another until nothing is.

A source that is silent, stalls, refuses, or sends wrong bytes gives way to the next one, and is asked again after a back-off.
"""

from __future__ import annotations

import select
import socket
import threading
from collections import Counter
from collections.abc import Callable
from time import monotonic
from typing import NamedTuple

from ...errors import WeightsError
from .catalog import decode_catalog
from .fetch import Arriving, Fetch, Malformed, arriving_catalog
from .link import Link, SourceLost, Stream
from .origin import Origin
from .protocol import Gone, Later, PullMessage, Refusal
from .store import ChunkStore, Superseded

STALLED_S = 10.0  # without a byte from a source that lives: the next source is asked, if there is one
MAX_TAMPERED = 8  # wrong bodies of one source in one pull
CHUNKS_AHEAD = 256  # asked for, on all connections together


class PullResult(NamedTuple):
    """What one pull took."""

    num_bytes: int  # that came over the network, of chunks and deltas
    seconds: float  # from the first request to the last checked chunk
    num_chunks: int  # that were fetched; the others were equal already
    num_full: int  # of these, those that came whole
    num_repeated: int  # chunks that came with wrong bytes and were fetched again
    source: str  # the endpoint from which the last of it came


class Pull:
    """Brings one store to one version."""

    def __init__(
        self,
        store: ChunkStore,
        version: int,
        catalog_digest: bytes,
        origins: list[Origin],
        connect: Callable[[Origin], Link],
        counters: Counter[str],
    ) -> None:
        """`origins`: the best one first, the learner last. `connect`: a link to one, ready for another request."""
        self._store, self._version, self._catalog_digest = store, version, catalog_digest
        self._origins, self._connect, self._counters = origins, connect, counters
        self._fetch: Fetch | None = None
        self._newest = -1  # that a source without this version has

    def run(self, deadline: float, wake: socket.socket, cancelled: threading.Event) -> PullResult:
        """Pull until `deadline`. `wake` can be read when `cancelled` is set. Raises Superseded, WeightsError."""
        self._deadline, self._wake, self._cancelled = deadline, wake, cancelled
        started = monotonic()
        while True:
            origin = self._choose()
            try:
                fetch = self._visit(origin)
            except Superseded as error:
                self._give_back(origin)
                self._supersede(origin, error)
            except (SourceLost, Malformed) as error:
                self._give_back(origin)
                origin.fail(error, monotonic())
                self._counters["weights/malformed_sources" if isinstance(error, Malformed) else "weights/lost_sources"] += 1
            except BaseException:
                origin.disconnect()
                raise
            else:
                self._store.finish(self._version)
                self._counters["weights/pulled_bytes"] += fetch.num_bytes
                figures = (fetch.num_chunks, fetch.num_full, fetch.num_repeated)
                return PullResult(fetch.num_bytes, monotonic() - started, *figures, origin.source.endpoint)

    def _choose(self) -> Origin:
        """The best source that may be asked now; waits for the first whose back-off ends."""
        while True:
            now = self._check_time()
            able = [origin for origin in self._origins if not origin.is_out]
            if not able:
                raise self._failure("no source is left")
            origin = next((origin for origin in able if now >= origin.retry_at), None)
            if origin is not None:
                return origin
            until = min(self._deadline, *(origin.retry_at for origin in able))
            select.select([self._wake], [], [], until - now)

    def _visit(self, origin: Origin) -> Fetch:
        """Fetch what is missing from one source. Raises SourceLost, Malformed, Superseded; WeightsError at the deadline."""
        link = self._connect(origin)
        if self._fetch is None:
            self._fetch = self._begin(origin, link)
        fetch = self._fetch
        while not fetch.is_complete:
            now = monotonic()
            for stream in link.streams:
                self._ask_more(link, stream, fetch, now)
            self._wait(origin, link)
            for stream in link.streams:
                for heard in link.receive(stream, monotonic()):
                    if isinstance(heard, Arriving):
                        self._complete(origin, fetch, heard)
                    else:
                        _heed(origin, heard)
        origin.succeed()
        return fetch

    def _begin(self, origin: Origin, link: Link) -> Fetch:
        """Fetch the catalog, and make its version the one that the store is to reach."""
        body = arriving_catalog(self._store.layout)
        asked_at, was_parked = monotonic(), False
        link.ask_catalog(self._version, body, asked_at)
        while link.streams[0].arriving:
            # nothing was granted with the question while the last pull's bytes are not paid for
            link.grant_more(link.streams[0], monotonic())
            self._wait(origin, link)
            for heard in link.receive(link.streams[0], monotonic()):
                if not isinstance(heard, Arriving):
                    _heed(origin, heard)
                    was_parked = True
        if not was_parked:
            link.window.note_round_trip(monotonic() - asked_at)
        encoded = bytes(body.content)
        try:
            catalog = decode_catalog(encoded, self._catalog_digest, len(self._store.layout.chunks))
        except WeightsError as error:
            self._counters["weights/tampered_catalogs"] += 1
            raise Malformed(str(error)) from error
        if catalog.version != self._version:
            raise WeightsError(f"the catalog is of version {catalog.version}, the update of {self._version}")
        return Fetch(self._store, catalog, self._store.begin(encoded, catalog))

    def _ask_more(self, link: Link, stream: Stream, fetch: Fetch, now: float) -> None:
        """Keep enough asked for on one connection."""
        window, most = link.window.stream_bytes(), max(1, CHUNKS_AHEAD // len(link.streams))
        expected = stream.num_expected
        # asked in portions, not one by one
        if expected <= window and len(stream.arriving) <= most // 2:
            wanted = fetch.take(2 * window - expected, most - len(stream.arriving))
            if wanted:
                link.ask(stream, wanted, version=self._version, session=fetch.catalog.session, now=now)
        link.grant_more(stream, now)

    def _complete(self, origin: Origin, fetch: Fetch, body: Arriving) -> None:
        """Put a body into the store. Raises SourceLost when its bytes were wrong and another source can be asked."""
        if fetch.complete(body):
            origin.succeed()
            return
        self._counters["weights/tampered_chunks"] += 1
        origin.num_tampered += 1
        origin.is_out = origin.num_tampered >= MAX_TAMPERED
        if origin.is_out or self._has_another(origin):
            raise SourceLost(f"chunk {body.index} came with other bytes than the catalog says")

    def _wait(self, origin: Origin, link: Link) -> None:
        """Wait until something comes. Raises SourceLost when the source was silent for too long, or stalls."""
        silent_at = link.heard_at + link.window.silence_s(origin.num_failures)
        stalled_at = link.progressed_at + STALLED_S if self._has_another(origin) else self._deadline
        now = self._check_time()
        until = min(silent_at, stalled_at, self._deadline)
        if until <= now:
            reason = "not a word" if silent_at <= now else "not a byte"
            raise SourceLost(f"{reason} for {now - min(link.heard_at, link.progressed_at):.1f} s")
        link.wait(min(until - now, link.pause_s(now)), self._wake)

    def _has_another(self, origin: Origin) -> bool:
        now = monotonic()
        return any(not other.is_out and now >= other.retry_at for other in self._origins if other is not origin)

    def _check_time(self) -> float:
        """The time. Raises WeightsError after `cancel`, and at the deadline."""
        now = monotonic()
        if self._cancelled.is_set():
            raise WeightsError(f"the pull of version {self._version} was cancelled")
        if now >= self._deadline:
            raise self._failure("its time is over")
        return now

    def _failure(self, reason: str) -> WeightsError:
        if self._newest >= 0 and all(origin.is_out for origin in self._origins):
            return Superseded(self._newest)
        errors = "; ".join(f"{origin.source.endpoint}: {origin.last_error}" for origin in self._origins)
        return WeightsError(f"the pull of version {self._version} failed, {reason}: {errors}")

    def _give_back(self, origin: Origin) -> None:
        if self._fetch is not None and origin.link is not None:
            self._fetch.give_back(origin.link.give_back())

    def _supersede(self, origin: Origin, error: Superseded) -> None:
        """A source has another version. That of the learner, the last source, ends the pull."""
        origin.disconnect()
        origin.is_out, origin.last_error = True, str(error)
        self._newest = max(self._newest, error.newest)
        self._counters["weights/superseded"] += 1
        if origin is self._origins[-1]:
            raise Superseded(self._newest)


def _heed(origin: Origin, message: PullMessage) -> None:
    match message:
        case Gone():
            raise Superseded(message.newest)
        case Refusal():
            raise SourceLost(f"the source refused: {message.reason[:200]}")
        case _:
            assert isinstance(message, Later)
            origin.last_error = "it has not sent that version yet"

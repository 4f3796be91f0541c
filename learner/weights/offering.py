"""The learner's end of pulled weights: it keeps what changed from version to version, and says where it can be fetched.

    publish() --newest--> encoder thread: ChunkStore.advance --served by--> WeightServer <--requests-- actors, relays
                            --Offer: version, digest of its catalog, checksums, address--> buffer --> actors, relays
                            <--WeightReaders: how many pull, and the keys of those who may

The encoder thread takes the newest version only; those that came and went meanwhile are skipped. While nobody pulls it does
nothing, and `KEPT_S` after the last puller left it lets the copy of the weights go. An Offer is sent again to every buffer that
welcomes the learner: it may be one that forgot. An error costs a version. Only where there is no other way to the actors does
one error after the other end the run.
"""

from __future__ import annotations

import logging
import threading
from time import monotonic, perf_counter, thread_time

import msgspec
import torch

from ...buffer.client.client import BufferClient
from ...buffer.client.inbox import Inbox
from ...common.config.sections import WeightsConfig
from ...common.errors import ConfigError, ProlongError, WeightsError
from ...common.messages import Offer, OfferNoted, SyncRequested, WeightReaders, Welcome
from ...common.transport.keys import ClientKeys
from ...common.types import PULL
from ...common.weights.buckets import PackedWeights
from ...common.weights.gpu_memory import own_stream
from ...common.weights.pull.catalog import catalog_digest
from ...common.weights.pull.chunks import ChunkLayout
from ...common.weights.pull.pace import Pace
from ...common.weights.pull.server import WeightServer
from ...common.weights.pull.store import ChunkStore
from .packer import WeightPacker

log = logging.getLogger(__name__)

POLL_S = 0.2  # how soon the thread notices messages, a new welcome and the end of a pause
CLOSE_S = 2.0
KEPT_S = 600.0  # from the last puller's end until the copy of the weights goes: a link that breaks for a while needs it
RETRY_S, MAX_RETRY_S = 1.0, 30.0  # after an error, twice as long after each one in a row
MAX_ERRORS = 10  # in a row, until the thread ends


class WeightOffering:
    """A `WeightCarrier` for those who pull.

    Example:
        offering = WeightOffering(client, client.inbox(WeightReaders, OfferNoted), packer, cfg, keys)
        client.connect(30.0)
        offering.start()
        offering.publish(packer.pack(version, model.named_parameters()))
        metrics = offering.metrics()
        offering.close()
    """

    def __init__(
        self,
        client: BufferClient,
        inbox: Inbox[WeightReaders | OfferNoted | SyncRequested],
        packer: WeightPacker,
        cfg: WeightsConfig,
        keys: ClientKeys | None,
    ) -> None:
        """`inbox` holds WeightReaders and OfferNoted and, where nothing is broadcast, SyncRequested.

        `packer` makes the weights that are offered, and takes them back. `keys`: this process's own; None: loopback only.
        """
        self._client, self._inbox, self._packer, self._cfg, self._keys = client, inbox, packer, cfg, keys
        # whether pulling is the only way to the actors
        self._alone = cfg.transport == PULL
        # guards the next four; notified when one of them changes
        self._changed = threading.Condition()
        self._newest: PackedWeights | None = None
        self._reading: PackedWeights | None = None  # by the thread
        self._noted: Offer | None = None  # the last offer that the buffer answered
        self._closing = False
        self.error: ProlongError | None = None  # that ended the thread
        # of the thread alone
        self._server: WeightServer | None = None
        self._store: ChunkStore | None = None
        self._readers = WeightReaders(num_pullers=0, keys=[])
        self._unread_since_s = 0.0  # when the last puller left
        self._encoded: PackedWeights | None = None  # what the store holds
        self._offer: Offer | None = None
        # the buffer that has the offer; `offer_again` forgets it, from any thread
        self._offered_to: Welcome | None = None
        self._num_errors, self._retry_at_s = 0, 0.0
        self._metrics = dict.fromkeys(("weights/offered", "weights/skipped", "weights/offer_errors"), 0.0)
        self._thread = threading.Thread(target=self._run, name="weight-encoder", daemon=True)

    def start(self) -> None:
        """Start the thread. The client is connected.

        Where all actors pull, the socket is opened now, else with the first puller. Raises: ConfigError, WeightsError.
        """
        if self._alone:
            self._server = self._open_server()
        self._thread.start()

    def publish(self, weights: PackedWeights) -> None:
        """Offer these weights as soon as possible, and release them when they are replaced. Returns at once.

        Raises the error that ended the thread, where pulling is the only way to the actors.
        """
        if self._alone and self.error is not None:
            raise self.error
        with self._changed:
            self._replace(weights)
            self._changed.notify_all()

    def drop_waiting(self) -> None:
        """Give up a version that waits behind the one which is encoded: a newer one is about to be packed, into its memory."""
        with self._changed:
            if self._reading is not None and self._newest is not self._reading:
                self._replace(None)

    def _replace(self, weights: PackedWeights | None) -> None:
        """Release the newest weights for newer ones, or for those that will come. The lock is held."""
        before, self._newest = self._newest, weights
        if before is None:
            return
        if self._readers.num_pullers and before is not self._encoded and before is not self._reading:
            self._metrics["weights/skipped"] += 1
        self._packer.release(before)

    def offer_again(self) -> None:
        """The buffer says that somebody lacks weights: send it the offer once more."""
        self._offered_to = None

    def wait_noted(self, version: int, timeout_s: float) -> bool:
        """Wait until the buffer has the offer of `version`. For tests and benches."""
        with self._changed:
            return self._changed.wait_for(lambda: self._noted is not None and self._noted.version == version, timeout_s)

    def metrics(self) -> dict[str, float]:
        """Of the last version that was encoded, and counts since the start, by name. None before anybody pulled."""
        server = self._server
        if server is None:
            return {}
        # a copy: the server's thread may add a name meanwhile
        return self._metrics | {name: float(count) for name, count in dict(server.counters).items()}

    def close(self) -> None:
        """Stop the thread and close the socket. A thread that encodes is left to end with the process."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join(timeout=CLOSE_S)
        if self._server is not None:
            self._server.close()

    # --- the encoder thread -------------------------------------------------------------------------------------------

    def _run(self) -> None:
        """The loop of the thread.

        Consumes: the newest weights, the buffer's messages. Blocks on: the encoding, new weights. Unblocked by: both, POLL_S.
        Stops on: `close`, the end of the run, MAX_ERRORS in a row.
        """
        try:
            with own_stream(self._packer.device):
                while not self._closing:
                    self._drop_failed_server()
                    self._hear()
                    weights = self._take_wanted()
                    if weights is not None:
                        self._encode(weights)
                    self._send_offer()
                    self._rest()
        except ProlongError as raised:
            self.error = raised
        except Exception as raised:
            # a thread that ends without a word would leave the actors with old weights until the learner starves
            self.error = WeightsError(f"the thread that offers weights ended: {type(raised).__name__}: {raised}")
            self.error.__cause__ = raised
        if isinstance(self.error, WeightsError):
            log.error("weights can no longer be pulled: %s", self.error, exc_info=self.error)

    def _hear(self) -> None:
        """Take in what the buffer said."""
        while (message := self._inbox.try_take()) is not None:
            if isinstance(message, WeightReaders):
                self._admit(message)
            elif isinstance(message, OfferNoted):
                with self._changed:
                    self._noted = self._offer if self._offer and self._offer.version == message.version else self._noted
                    self._changed.notify_all()
            else:
                log.info("weights asked for: %s", message.reason)
                self.offer_again()
        if self._store is not None and not self._readers.num_pullers and monotonic() > self._unread_since_s + KEPT_S:
            self._forget()

    def _admit(self, readers: WeightReaders) -> None:
        if readers.num_pullers != self._readers.num_pullers:
            log.info("%d actors and relays pull weights", readers.num_pullers)
            self._unread_since_s = monotonic()
        self._readers = readers
        if self._server is not None:
            self._server.admit(readers.keys)

    def _forget(self) -> None:
        """Let the copy of the weights go. The next one begins a session of its own."""
        if self._server is not None:
            self._server.serve(None)
        self._store, self._encoded, self._offer = None, None, None

    def _drop_failed_server(self) -> None:
        """After a server whose thread ended by an error everything begins anew: another server, another session."""
        if self._server is not None and not self._server.is_running:
            self._server.close()
            self._server = None
            self._forget()

    def _take_wanted(self) -> PackedWeights | None:
        """The newest weights, held, if somebody pulls and the store lacks them."""
        with self._changed:
            if not self._is_wanted(self._newest):
                return None
            assert self._newest is not None
            self._packer.hold(self._newest)
            self._reading = self._newest
            return self._newest

    def _is_wanted(self, weights: PackedWeights | None) -> bool:
        some_pull = self._readers.num_pullers > 0 and monotonic() >= self._retry_at_s
        return some_pull and weights is not None and weights is not self._encoded

    def _rest(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._closing or self._is_wanted(self._newest), POLL_S)

    def _encode(self, weights: PackedWeights) -> None:
        """Let the store become these weights, and make the offer of them."""
        try:
            self._offer = self._advance(weights)
            self._encoded, self._offered_to, self._num_errors = weights, None, 0
        except Exception as error:  # memory, the port, torch: the next version may work
            self._note_error(weights, error)
        finally:
            with self._changed:
                self._reading = None
            self._packer.release(weights)

    def _advance(self, weights: PackedWeights) -> Offer:
        started, cpu_started = perf_counter(), thread_time()
        if self._server is None:
            self._server = self._open_server()
        if self._store is None:
            buckets = [torch.zeros(bucket.num_bytes, dtype=torch.uint8) for bucket in weights.manifest.buckets]
            self._store = ChunkStore(ChunkLayout(weights.manifest), buckets)
        stats = self._store.advance(weights)
        catalog = self._store.catalog(weights.version)
        assert catalog is not None, "the store holds the version that it advanced to"
        checksums = weights.checksums()
        self._server.serve(self._store)
        self._metrics |= {
            "weights/encode_s": perf_counter() - started,
            "weights/encode_cpu_s": thread_time() - cpu_started + stats.cpu_s,
            "weights/delta_bytes": float(stats.num_bytes),
            "weights/full_bytes": float(stats.full_bytes),
            "weights/changed": stats.num_changed / max(stats.num_chunks, 1),
        }
        return Offer(
            generation=self._client.generation,
            version=weights.version,
            manifest=weights.manifest,
            checksums=checksums,
            catalog=catalog_digest(catalog),
            source=self._server.source,
        )

    def _note_error(self, weights: PackedWeights, error: Exception) -> None:
        """Pause, then go on with the newest weights and a new store.

        Raises WeightsError after MAX_ERRORS in a row, and at once when a setting is wrong.
        """
        self._forget()
        self._metrics["weights/offer_errors"] += 1
        self._num_errors += 1
        if isinstance(error, ConfigError):
            raise WeightsError(f"weights cannot be served: {error}") from error
        if self._num_errors >= MAX_ERRORS:
            raise WeightsError(f"{self._num_errors} versions in a row could not be offered (last: {error})") from error
        pause_s = min(MAX_RETRY_S, RETRY_S * 2 ** (self._num_errors - 1))
        self._retry_at_s = monotonic() + pause_s
        unforeseen = None if isinstance(error, ProlongError) else error
        log.error("version %d cannot be offered (%s); again in %g s", weights.version, error, pause_s, exc_info=unforeseen)

    def _send_offer(self) -> None:
        """Tell the buffer, if it is a newer offer, or a buffer that was not told."""
        welcome = self._client.welcome
        if self._offer is None or welcome is None or welcome is self._offered_to:
            return
        # before it is sent: `offer_again` may come at the same time, and must not be forgotten
        self._offered_to = welcome
        self._client.send(msgspec.structs.replace(self._offer, generation=welcome.generation))
        self._metrics["weights/offered"] += 1

    def _open_server(self) -> WeightServer:
        server = WeightServer(self._cfg.host, self._cfg.port, self._keys, Pace(self._cfg.max_mb_s))
        server.admit(self._readers.keys)
        server.start()
        log.info("weights can be pulled from %s", server.source.endpoint)
        return server

"""The backward edge learner -> actors: weights that are broadcast to all actors of a plan.

    publish() --Publish--> buffer --PublishPlan--> LearnerEnd.publish --> actors
              <--PublishResult-- their acknowledgements, with checksums
              members with other checksums --Cordon--> buffer; a failed publish is tried once more

A thread does all this, on a GPU's stream of its own. Newer weights replace those that wait, so that it holds two versions at
most: one that travels and the newest. No actor can stop the learner: one that fails is cordoned by the buffer, which asks for
weights again (SyncRequested). Only when one publish after the other reaches no actor at all does the next call of `publish`
raise.

Deadlines: every phase of a broadcast may take as long as `adaptive_deadline.py` says, and Publish tells the buffer and the
actors that number. A member that is silent for longer costs the others that time, half of it again, and the second try.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, field
from time import monotonic

from ...buffer.client.client import BufferClient
from ...buffer.client.inbox import Inbox
from ...common.config.sections import WeightsConfig
from ...common.errors import ProlongError, WeightsError
from ...common.messages import Cordon, Publish, PublishPlan, PublishResult, SyncRequested, Welcome
from ...common.weights.api import LearnerEnd
from ...common.weights.buckets import PackedWeights
from ...common.weights.gpu_memory import own_stream
from .adaptive_deadline import GPU_SLACK_S, SLACK_S, AdaptiveDeadline
from .offering import WeightOffering
from .packer import WeightPacker

log = logging.getLogger(__name__)

POLL_S = 0.2  # how soon the thread notices `close` and a new generation
MAX_UNREACHED = 10  # publishes in a row that reached none of their members, until the learner stops
MAX_TRIES = 2  # of one publish
CLOSE_S = 2.0
RESULT_SLACK_S = 2.0  # for the buffer's own delays


@dataclass(slots=True)
class _Attempt:
    """A Publish that was sent."""

    weights: PackedWeights
    generation: int
    number: int  # 1, or 2 for the second try
    phase_timeout_s: float
    sent_s: float = field(default_factory=monotonic)


@dataclass(slots=True)
class _State:
    """The state that both threads share; it is written under the sender's lock."""

    newest: PackedWeights | None = None  # the weights that actors should hold
    attempt: _Attempt | None = None  # the one under way, if any
    error: ProlongError | None = None  # the error that ended the thread
    thread_ended: bool = False


@dataclass(slots=True)
class _Reach:
    """Whether weights reach any actor at all. Of the thread alone."""

    version: int = -1  # the newest that at least one actor acknowledged
    num_unreached: int = 0  # publishes in a row that reached none of their members

    def note(self, version: int, *, num_members: int, num_failed: int) -> None:
        """Count one publish. The second try of a version that reached others counts for nothing when it fails."""
        if num_failed < num_members:
            self.version, self.num_unreached = version, 0
        elif num_failed and self.version != version:
            self.num_unreached += 1


class WeightSender:
    """Broadcasts packed versions to the actors. Rank 0 owns one, and calls it from its main thread.

    Example:
        packer = WeightPacker(specs, cfg.bucket_mb << 20)
        end = configured_transport(cfg).open_learner_end(cfg, device)
        sender = WeightSender(client, client.inbox(PublishPlan, PublishResult, SyncRequested), end, packer, cfg)
        client.connect(30.0)
        sender.start()
        sender.publish(packer.pack(version, model.named_parameters()))
        metrics = sender.metrics()
        sender.close()
    """

    def __init__(
        self,
        client: BufferClient,
        inbox: Inbox[PublishPlan | PublishResult | SyncRequested],
        end: LearnerEnd,
        packer: WeightPacker,
        cfg: WeightsConfig,
        deadline: AdaptiveDeadline | None = None,
        offering: WeightOffering | None = None,
    ) -> None:
        """`inbox` holds PublishPlan, PublishResult and SyncRequested. `end` is the sender's from now on, `close` included.

        `packer` makes the weights that are published, and takes them back. `offering` hears, too, that somebody lacks weights.
        """
        self._offering = offering
        self._client, self._inbox, self._end, self._packer, self._cfg = client, inbox, end, packer, cfg
        slack_s = GPU_SLACK_S if packer.device.type == "cuda" else SLACK_S
        self._deadline = AdaptiveDeadline(cfg.timeout_s, slack_s=slack_s) if deadline is None else deadline
        self._state = _State()
        self._reach = _Reach()
        # the lock of `_state`; notified when an attempt or the thread ends
        self._changed = threading.Condition()
        self._metrics = {
            "weights/publish_s": 0.0,  # from Publish to the result, of the last broadcast
            "weights/phase_timeout_s": 0.0,  # of the last Publish
            "weights/failed": 0.0,  # members that did not get the weights, so far
            "weights/replaced": 0.0,  # versions that were never sent because a newer one came, so far
        }
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="weight-sender", daemon=True)

    def start(self) -> None:
        """Start the thread. The client is connected."""
        self._thread.start()

    def publish(self, weights: PackedWeights) -> None:
        """Broadcast these weights, and let the packer have them when they are replaced. Returns at once.

        Raises the error that ended the thread.
        """
        if self._state.error is not None:
            raise self._state.error
        with self._changed:
            before, self._state.newest = self._state.newest, weights
            if self._state.attempt is None:
                if before is not None:
                    self._packer.release(before)
                self._send_publish(weights, number=1)

    def drop_waiting(self) -> None:
        """Give up a version that waits behind the one under way: a newer one is about to be packed, into its memory."""
        with self._changed:
            attempt, newest = self._state.attempt, self._state.newest
            if attempt is not None and newest is not None and newest is not attempt.weights:
                self._state.newest = attempt.weights
                self._packer.release(newest)
                self._metrics["weights/replaced"] += 1

    def metrics(self) -> dict[str, float]:
        """Seconds of the last publish and counts since the start, by name."""
        return dict(self._metrics)

    def wait_idle(self, timeout_s: float) -> bool:
        """Wait until the newest version was sent to the actors that there are. For tests and benches."""
        with self._changed:
            return self._changed.wait_for(lambda: self._state.attempt is None or self._state.thread_ended, timeout_s)

    def close(self) -> None:
        """Stop the thread and close the transport's end. A thread inside a broadcast ends with the process."""
        self._closing.set()
        if self._thread.ident is not None:
            self._thread.join(timeout=CLOSE_S)
        if not self._thread.is_alive():
            self._end.close()

    # --- the sender's thread ------------------------------------------------------------------------------------------

    def _run(self) -> None:
        """The loop of the thread.

        Consumes: plans and requests for weights. Blocks on: the inbox and, inside a plan, the broadcast and its result.
        Unblocked by: the buffer's messages, deadlines. Stops on: `close`, the end of the run, an error kept for `publish`.
        """
        error: ProlongError | None = None
        try:
            with own_stream(self._packer.device):
                while not self._closing.is_set():
                    message = self._inbox.take_within(POLL_S)
                    if message is None:
                        self._repeat_lost_publish()
                    elif isinstance(message, PublishPlan):
                        self._serve(message)
                    elif isinstance(message, SyncRequested):
                        self._publish_again(message.reason)
        except ProlongError as raised:
            error = raised
        except Exception as raised:
            # a thread that ends without a word would leave the actors with old weights until the learner starves
            error = WeightsError(f"the thread that sends weights ended: {type(raised).__name__}: {raised}")
            error.__cause__ = raised
        finally:
            with self._changed:
                self._state.error, self._state.thread_ended = error, True
                self._changed.notify_all()

    def _publish_again(self, reason: str) -> None:
        """An actor lacks weights."""
        log.info("weights asked for: %s", reason)
        if self._offering is not None:
            self._offering.offer_again()
        with self._changed:
            if self._state.attempt is None and self._state.newest is not None:
                self._send_publish(self._state.newest, number=1)

    def _repeat_lost_publish(self) -> None:
        """Send Publish again when the buffer restarted or began another generation, and so will not answer the last one."""
        with self._changed:
            attempt, welcome = self._state.attempt, self._client.welcome
            if attempt is None or welcome is None:
                return
            if welcome.generation != attempt.generation or monotonic() - attempt.sent_s > self._cfg.timeout_s:
                self._send_publish(attempt.weights, attempt.number)

    def _send_publish(self, weights: PackedWeights, number: int, given_up: int = -1) -> None:
        """Begin an attempt; the lock is held. `given_up`: epoch of a broadcast whose result did not come."""
        assert self._client.welcome is not None, "the sender is started before the client is connected"
        attempt = _Attempt(weights, self._client.welcome.generation, number, self._deadline.phase_timeout_s)
        self._state.attempt = attempt
        self._metrics["weights/phase_timeout_s"] = attempt.phase_timeout_s
        self._client.send(
            Publish(
                generation=attempt.generation,
                version=weights.version,
                rendezvous=self._end.rendezvous,
                manifest=weights.manifest,
                phase_timeout_s=attempt.phase_timeout_s,
                given_up=given_up,
            )
        )

    def _serve(self, plan: PublishPlan) -> None:
        """Carry out the plan, wait for its result, then retry, go on with newer weights, or rest."""
        attempt = self._state.attempt
        if attempt is None or plan.version != attempt.weights.version:
            return
        failed: dict[str, str] = {}
        given_up = -1
        if plan.members:
            planned_by = self._client.welcome
            phases_s = self._broadcast(plan, attempt)
            result = self._await_result(plan, attempt, planned_by)
            if self._closing.is_set():
                return
            if result is None:
                given_up = plan.epoch
            failed = self._failures(plan, attempt, result)
            self._note_time(attempt, phases_s, succeeded=not failed)
        self._note_failures(plan, failed)
        self._go_on(attempt, bool(failed), given_up)

    def _broadcast(self, plan: PublishPlan, attempt: _Attempt) -> list[float]:
        """Seconds of each phase; none after a failure."""
        try:
            return self._end.publish(plan, attempt.weights, attempt.phase_timeout_s)
        except WeightsError as error:
            log.warning("weights of version %d, epoch %d: %s", plan.version, plan.epoch, error)
            return []

    def _await_result(self, plan: PublishPlan, attempt: _Attempt, planned_by: Welcome | None) -> PublishResult | None:
        """None when no result came within twice the deadline of a phase, or another buffer welcomed us since the plan."""
        deadline_s = monotonic() + 2 * attempt.phase_timeout_s + RESULT_SLACK_S
        while not self._closing.is_set() and monotonic() < deadline_s and self._client.welcome is planned_by:
            message = self._inbox.take_within(POLL_S)
            if isinstance(message, PublishResult) and (message.epoch, message.version) == (plan.epoch, plan.version):
                return message
        return None

    def _failures(self, plan: PublishPlan, attempt: _Attempt, result: PublishResult | None) -> dict[str, str]:
        """The members that do not hold these weights, and why. Those with other checksums are cordoned."""
        if result is None:
            return dict.fromkeys(plan.members, "no answer, and none from the buffer about it")
        try:
            sent = attempt.weights.checksums()
        except RuntimeError as error:  # torch's: out of memory
            return dict.fromkeys(plan.members, f"the checksums of what was sent could not be computed ({error})")
        different = [name for name, received in result.checksums.items() if received != sent]
        if different:
            self._client.send(Cordon(epoch=plan.epoch, names=different))
        return result.failed | dict.fromkeys(different, "received other bytes than were sent")

    def _note_time(self, attempt: _Attempt, phases_s: list[float], *, succeeded: bool) -> None:
        """Adapt the deadline. The wait for acknowledgements is a phase too."""
        took_s = monotonic() - attempt.sent_s
        self._metrics["weights/publish_s"] = took_s
        if succeeded and phases_s:
            self._deadline.succeeded([*phases_s, took_s - sum(phases_s)])
        else:
            self._deadline.failed()

    def _note_failures(self, plan: PublishPlan, failed: dict[str, str]) -> None:
        """Count them, and end the epoch if there are any. Raises WeightsError when weights have reached no actor for long."""
        self._metrics["weights/failed"] += len(failed)
        for name, reason in failed.items():
            log.warning("weights of version %d did not reach %s: %s", plan.version, name, reason)
        if failed:
            self._end.disconnect()
        self._reach.note(plan.version, num_members=len(plan.members), num_failed=len(failed))
        if self._reach.num_unreached >= MAX_UNREACHED:
            raise WeightsError(
                f"{self._reach.num_unreached} publishes in a row reached no actor (last: {failed}); is weights.host = "
                f"{self._cfg.host} an address that the actors can reach?"
            )

    def _go_on(self, attempt: _Attempt, failed: bool, given_up: int) -> None:
        """Send newer weights, try the same once more, or rest."""
        with self._changed:
            newest = self._state.newest
            assert newest is not None
            if newest is not attempt.weights:
                self._packer.release(attempt.weights)
                self._send_publish(newest, 1, given_up)
            elif failed and (attempt.number < MAX_TRIES or given_up >= 0):
                self._send_publish(newest, attempt.number + 1, given_up)
            else:
                self._state.attempt = None
                self._changed.notify_all()

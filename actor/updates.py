"""Weight updates of an actor or relay: one at a time, the newest first; a failure is reported, and what is held stays in use.

buffer --UpdateWeights--> offer --apply_all--> [pull into shared memory] --> engine --WeightsApplied--> buffer

A download that belongs to a broadcast ends when a newer update comes. A pull goes on: a process behind a slow link would never
finish otherwise. It is given up only when it was to be made elsewhere, or of the weights of another learner: what it fetched
stays, and is not fetched again.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from time import monotonic
from typing import Protocol

import msgspec

from ..common.errors import ConfigError, ProlongError, WeightsError
from ..common.messages import UpdateWeights, WeightReaders, WeightsApplied
from ..common.trace import NO_TRACE, Tracer
from ..common.types import Manifest
from ..common.weights.pull.store import Superseded
from .pulling import PulledWeights, is_pulled, pull_address

log = logging.getLogger(__name__)


class WeightHolder(Protocol):
    """The part of `Engine` that weights need."""

    @property
    def paused_s(self) -> float: ...

    async def apply_weights(self, update: UpdateWeights, timeout_s: float) -> list[int]: ...

    def supersede(self) -> None: ...


class Pulls(Protocol):
    """The part of `Pulling` that updates need; called in the event loop."""

    @property
    def has_failed(self) -> bool: ...

    async def pull(self, update: UpdateWeights) -> PulledWeights: ...

    def give_up(self) -> None: ...

    def admit(self, readers: WeightReaders) -> None: ...


class UpdateStats(Protocol):
    """The part of `ActorStats` that updates need."""

    @property
    def counts(self) -> Counter[str]: ...

    def paused(self, seconds: float) -> None: ...

    def spent(self, name: str, seconds: float) -> None: ...


class WeightUpdates:
    """Applies the updates that the buffer offers. Lives in one event loop."""

    def __init__(
        self,
        holder: WeightHolder,
        pulls: Pulls,
        stats: UpdateStats,
        send: Callable[[WeightsApplied], None],
        *,
        timeout_s: float,
        dtype: str = "",
        tracer: Tracer = NO_TRACE,
    ) -> None:
        """`timeout_s`: of one update. `send` never blocks. dtype: of the engine; updates must be in it."""
        self._tracer = tracer
        self._holder, self._pulls, self._stats, self._send = holder, pulls, stats, send
        self._timeout_s, self._dtype = timeout_s, dtype
        self.generation = -1  # of the weights that the engine holds
        self._offered: UpdateWeights | None = None  # the newest update that is not being applied yet
        self._current: UpdateWeights | None = None  # the one that is being applied
        self._gives_up = False  # its pull, for the one offered
        # the pulled weights that are held, if the buffer has been told of them once; then their acknowledgement
        self._held: UpdateWeights | None = None
        self._acknowledged: WeightsApplied | None = None

    @property
    def busy(self) -> bool:
        """Whether a broadcast is under way, whose other members would fail without this one. A pull concerns nobody else."""
        return self._current is not None and not is_pulled(self._current)

    def offer(self, update: UpdateWeights) -> bool:
        """Take note of an update; True: `apply_all` must be started. Raises ConfigError for one of another dtype."""
        check_dtype(update.manifest, self._dtype)
        current, starts = self._current, self._current is None and self._offered is None
        self._offered = update
        if current is None or not is_pulled(current):
            self._holder.supersede()
        elif is_elsewhere(update, current):
            self._gives_up = True
            self._pulls.give_up()
        return starts

    def check(self) -> None:
        """Raise ProlongError when this process should serve weights and cannot: it would stay the source of others.

        Whoever started it starts it again; until then nobody is sent here.
        """
        if self._pulls.has_failed:
            raise ProlongError("the thread that serves weights has ended; its error is above")

    def admit(self, readers: WeightReaders) -> None:
        """Let exactly these pull from this process, if it serves."""
        self._pulls.admit(readers)

    async def apply_all(self) -> None:
        """Apply the newest update offered, and those that are offered meanwhile."""
        try:
            while self._offered is not None:
                update = self._current = self._offered
                self._offered = None
                answer = await self._applied(update)
                if answer is not None:
                    self._send(answer)
                    # an offer is repeated as long as a slow pull is not answered
                    if not answer.error and self._offered is not None and has_same_weights(self._offered, update):
                        self._offered = None
        finally:
            self._current = None

    async def _applied(self, update: UpdateWeights) -> WeightsApplied | None:
        """Apply one update. A download that failed is part of the answer, not raised. None: a newer offer is on its way."""
        start, paused_s = monotonic(), self._holder.paused_s
        self._gives_up = False
        if (acknowledged := self._acknowledged_before(update)) is not None:
            return acknowledged
        received, checksums, error = PulledWeights(update.rendezvous, 0, 0.0), [], ""
        try:
            if is_pulled(update):
                received = await self._pulled(update)
            checksums = await self._loaded(msgspec.structs.replace(update, rendezvous=received.rendezvous))
        except WeightsError as failure:
            if self._makes_way(update, failure):
                return None
            error = str(failure)
            self._stats.counts["failed_updates"] += 1
            log.warning("version %d was not applied: %s", update.version, error)
        self._stats.paused(self._holder.paused_s - paused_s)
        address, ended = pull_address(update), monotonic()
        self._tracer.add("weights", start, ended, version=update.version, bytes=received.num_bytes, error=error)
        applied = WeightsApplied(
            generation=update.generation,
            version=update.version,
            epoch=update.epoch,
            checksums=checksums,
            seconds=ended - start,
            error=error,
            num_bytes=received.num_bytes,
            pull_s=received.seconds,
            catalog=b"" if address is None else address.catalog,
        )
        self._held, self._acknowledged = (None, None) if error else (update, applied)
        return applied

    def _acknowledged_before(self, update: UpdateWeights) -> WeightsApplied | None:
        """The acknowledgement of these weights, for a buffer that was restarted and asks who holds what.

        Once: a buffer that asks again does not believe it, and the weights are checked and loaded once more.
        """
        acknowledged, self._acknowledged = self._acknowledged, None
        if acknowledged is None or self._held is None or not has_same_weights(update, self._held):
            return None
        return msgspec.structs.replace(acknowledged, seconds=0.0, num_bytes=0, pull_s=0.0)

    def _makes_way(self, update: UpdateWeights, failure: WeightsError) -> bool:
        """Whether a pull ended because of another offer, which is here or on its way: the buffer need not hear of it."""
        if isinstance(failure, Superseded):
            self._stats.counts["superseded_pulls"] += 1
        elif self._gives_up:
            self._stats.counts["given_up_pulls"] += 1
        else:
            return False
        log.info("the pull of version %d makes way for another offer (%s)", update.version, failure)
        return True

    async def _pulled(self, update: UpdateWeights) -> PulledWeights:
        pulled = await self._pulls.pull(update)
        self._stats.counts["pulls"] += 1
        self._stats.spent("pull_s", pulled.seconds)
        return pulled

    async def _loaded(self, update: UpdateWeights) -> list[int]:
        start = monotonic()
        checksums = await self._holder.apply_weights(update, self._timeout_s)
        if not self.busy:
            self._stats.spent("load_s", monotonic() - start)
        self.generation = update.generation
        self._stats.counts["weight_updates"] += 1
        return checksums


def has_same_weights(update: UpdateWeights, other: UpdateWeights) -> bool:
    """Whether both are pulled, and lead to the same bytes."""
    mine, others = pull_address(update), pull_address(other)
    same = mine is not None and others is not None and mine.catalog == others.catalog
    return same and update.generation == other.generation


def is_elsewhere(update: UpdateWeights, pulled: UpdateWeights) -> bool:
    """Whether `update` shows that a pull of `pulled`, offered before it, may wait in vain: for others, or another learner's."""
    mine, others = pull_address(update), pull_address(pulled)
    if mine is None or others is None or mine.sources != others.sources:
        return True
    # a learner's versions only grow
    older = update.version <= pulled.version and mine.catalog != others.catalog
    return older or update.generation != pulled.generation


def check_dtype(manifest: Manifest, dtype: str) -> None:
    """Raise ConfigError when no tensor of an update is in `dtype`: the learner's `model.dtype` is another one.

    A tensor that is not trained may be in another dtype. Without `dtype` nothing is compared.
    """
    found = {spec.dtype for bucket in manifest.buckets for spec in bucket.tensors}
    if dtype and dtype not in found:
        raise ConfigError(
            f"model.dtype = {dtype}: the learner's weights are {' and '.join(sorted(found))}; give learner and actors the same "
            "model.dtype (auto is bfloat16 on a GPU and float32 on a CPU)"
        )

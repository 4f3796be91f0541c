"""An actor's weight updates: one at a time, the newest first; a failure is reported and the engine keeps what it has.

buffer --UpdateWeights--> offer --apply_all--> engine --WeightsApplied--> buffer
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import perf_counter

from ..common.errors import ConfigError, WeightsError
from ..common.messages import UpdateWeights, WeightsApplied
from ..common.types import Manifest
from .engines.api import Engine
from .stats import ActorStats

log = logging.getLogger(__name__)


class WeightUpdates:
    """Applies the updates that the buffer offers. Lives in the actor's event loop."""

    def __init__(
        self,
        engine: Engine,
        stats: ActorStats,
        send: Callable[[WeightsApplied], None],
        *,
        timeout_s: float,
        dtype: str = "",
    ) -> None:
        """`timeout_s`: of one update. `send` never blocks. dtype: of the engine; updates must be in it."""
        self._engine, self._stats, self._send = engine, stats, send
        self._timeout_s, self._dtype = timeout_s, dtype
        self.generation = -1  # of the weights that the engine holds
        self._offered: UpdateWeights | None = None  # the newest update that is not being applied yet
        self._applying = False

    @property
    def busy(self) -> bool:
        """Whether an update is under way that others depend on: the members of its broadcast would fail without this one."""
        return self._applying

    def offer(self, update: UpdateWeights) -> bool:
        """Take note of an update; True: `apply_all` must be started. Raises ConfigError for one of another dtype."""
        check_dtype(update.manifest, self._dtype)
        self._offered = update
        self._engine.supersede()
        starts, self._applying = not self._applying, True
        return starts

    async def apply_all(self) -> None:
        """Apply the newest update offered, and those that are offered meanwhile."""
        while self._offered is not None:
            update, self._offered = self._offered, None
            self._send(await self._applied(update))
        self._applying = False

    async def _applied(self, update: UpdateWeights) -> WeightsApplied:
        """Apply one update. A download that failed is part of the answer, not raised."""
        start, paused_s = perf_counter(), self._engine.paused_s
        checksums: list[int] = []
        error = ""
        try:
            checksums = await self._engine.apply_weights(update, self._timeout_s)
            self.generation = update.generation
            self._stats.counts["weight_updates"] += 1
        except WeightsError as failure:
            error = str(failure)
            self._stats.counts["failed_updates"] += 1
            log.warning("version %d was not applied: %s", update.version, error)
        self._stats.paused(self._engine.paused_s - paused_s)
        return WeightsApplied(
            generation=update.generation,
            version=update.version,
            epoch=update.epoch,
            checksums=checksums,
            seconds=perf_counter() - start,
            error=error,
        )


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

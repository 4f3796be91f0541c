"""Pulls that a test ends, and updates that name sources."""

from __future__ import annotations

import asyncio
from collections import Counter

import msgspec
from prolong.actor.pulling import PulledWeights
from prolong.common.errors import WeightsError
from prolong.common.messages import UpdateWeights, WeightReaders
from prolong.common.types import PULL, Manifest, PullAddress, Rendezvous, WeightSource

NOTHING = Manifest(buckets=[])
SHARED = Rendezvous(transport="shared", address=b"here")


def pulled_update(version: int, *sources: str, generation: int = 1, catalog: int = -1) -> UpdateWeights:
    """An update that is pulled from `sources`, the learner the last. `catalog` tells contents apart; by default: versions."""
    digest = bytes([catalog if catalog >= 0 else version]) * 32
    address = PullAddress(
        catalog=digest, sources=[WeightSource(endpoint=f"tcp://{name}:1") for name in sources or ("learner",)]
    )
    return UpdateWeights(
        generation=generation,
        version=version,
        epoch=-1,
        member=0,
        num_members=1,
        rendezvous=Rendezvous(transport=PULL, address=msgspec.msgpack.encode(address)),
        manifest=NOTHING,
    )


class ScriptedPulls:
    """`updates.Pulls`: every pull lasts until it is told how to end. Given up, it fails."""

    def __init__(self) -> None:
        self.asked: asyncio.Queue[int] = asyncio.Queue()  # versions
        self.readers: list[WeightReaders] = []
        self.num_given_up = self.num_cancelled = 0
        self.has_failed = False  # as a server for others
        self._outcome: asyncio.Future[PulledWeights] | None = None

    async def pull(self, update: UpdateWeights) -> PulledWeights:
        self._outcome = asyncio.get_running_loop().create_future()
        self.asked.put_nowait(update.version)
        try:
            return await self._outcome
        except asyncio.CancelledError:
            self.num_cancelled += 1
            raise

    def end(self, error: WeightsError | None = None) -> None:
        """The pull under way succeeds with 5 bytes in a quarter of a second, or fails with `error`."""
        assert self._outcome is not None
        if error is None:
            self._outcome.set_result(PulledWeights(SHARED, 5, 0.25))
        else:
            self._outcome.set_exception(error)

    def give_up(self) -> None:
        self.num_given_up += 1
        self.end(WeightsError("given up"))

    def counters(self) -> Counter[str]:
        return Counter({"weights/sent_bytes": 7})

    def admit(self, readers: WeightReaders) -> None:
        self.readers.append(readers)

"""The policy's weights on their way out: each version is packed once, and given to all carriers that bring it to actors.

    publish(): pack --> WeightSender    broadcasts it to the actors of a plan
                    --> WeightOffering  offers it to actors and relays that pull

Only the packing is on the learner's critical path. A version's memory is used again once no carrier reads it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from time import perf_counter
from typing import Protocol

from torch import Tensor

from ...common.weights.buckets import PackedWeights
from .packer import WeightPacker


class WeightCarrier(Protocol):
    """Brings packed versions to actors, in a thread of its own. `PackingPublisher` alone calls it, from one thread."""

    def start(self) -> None:
        """Start the thread. The client is connected."""
        ...

    def drop_waiting(self) -> None:
        """A newer version is about to be packed: release one that waits behind the one under way, so that memory is free."""
        ...

    def publish(self, weights: PackedWeights) -> None:
        """Take over these weights, which it releases when a newer version replaces them. Raises what ended the thread."""
        ...

    def metrics(self) -> dict[str, float]:
        """Seconds of the last version and counts since the start, by name."""
        ...

    def close(self) -> None:
        """Stop the thread, and close what it uses."""
        ...


class PackingPublisher:
    """A `WeightPublisher` of rank 0.

    Example:
        packer = WeightPacker(specs, cfg.bucket_mb << 20)
        publisher = PackingPublisher(packer, [WeightSender(client, inbox, end, packer, cfg)])
        publisher.start()
        publisher.publish(version, model.named_parameters())
        metrics = publisher.metrics()
        publisher.close()
    """

    def __init__(self, packer: WeightPacker, carriers: Sequence[WeightCarrier]) -> None:
        """The carriers, at least one, are the publisher's from now on. They release weights to `packer`."""
        self._packer, self._carriers = packer, carriers
        self._critical_s = 0.0

    def start(self) -> None:
        """Start the carriers' threads. The client is connected."""
        for carrier in self._carriers:
            carrier.start()

    def publish(self, version: int, tensors: Iterable[tuple[str, Tensor]]) -> None:
        """Pack the tensors as `version` and return; they may change afterwards. Raises the error that ended a carrier."""
        started = perf_counter()
        for carrier in self._carriers:
            carrier.drop_waiting()
        weights = self._packer.pack(version, tensors)
        for _ in self._carriers[1:]:
            self._packer.hold(weights)
        for carrier in self._carriers:
            carrier.publish(weights)
        self._critical_s = perf_counter() - started

    def metrics(self) -> dict[str, float]:
        """Those of the carriers, and `weights/critical_s`: the last call of `publish`."""
        carried = {name: value for carrier in self._carriers for name, value in carrier.metrics().items()}
        return {"weights/critical_s": self._critical_s} | carried

    def close(self) -> None:
        """Close the carriers."""
        for carrier in self._carriers:
            carrier.close()

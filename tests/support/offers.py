"""A WeightOffering and the part of a client and an inbox that it uses; the test says what the buffer answers."""

from __future__ import annotations

import queue
from collections.abc import Iterable
from typing import Any, cast

from prolong.buffer.client.client import BufferClient
from prolong.common.config.sections import WeightsConfig
from prolong.common.messages import Offer, Welcome
from prolong.common.transport.keys import ClientKeys
from prolong.common.weights.buckets import PackedWeights
from prolong.learner.weights.offering import WeightOffering
from prolong.learner.weights.packer import WeightPacker
from torch import Tensor

HANG_S = 60.0


class OfferingScene:
    """An offering that is not started yet."""

    def __init__(self, cfg: WeightsConfig, packer: WeightPacker, keys: ClientKeys | None = None) -> None:
        self.welcome = Welcome(generation=1, heartbeat_s=1.0, lease_s=1.0, version=0)
        self.sent: queue.Queue[Any] = queue.Queue()
        self.arrived: queue.Queue[Any] = queue.Queue()
        self.packer = packer
        self.offering = WeightOffering(cast(BufferClient, self), cast(Any, self), packer, cfg, keys)

    @property
    def generation(self) -> int:
        return self.welcome.generation

    def send(self, message: object) -> None:
        self.sent.put(message)

    def try_take(self) -> Any:
        try:
            message = self.arrived.get_nowait()
        except queue.Empty:
            return None
        if isinstance(message, Exception):
            raise message
        return message

    def say(self, *messages: object) -> None:
        """What the buffer sends; an exception ends the inbox."""
        for message in messages:
            self.arrived.put(message)

    def publish(self, version: int, tensors: Iterable[tuple[str, Tensor]]) -> PackedWeights:
        """As the publisher does. What is returned may be overwritten by the next version but one."""
        self.offering.drop_waiting()
        weights = self.packer.pack(version, tensors)
        self.offering.publish(weights)
        return weights

    def heard(self) -> Offer:
        """The next message of the offering."""
        message = self.sent.get(timeout=HANG_S)
        assert isinstance(message, Offer), message
        return message

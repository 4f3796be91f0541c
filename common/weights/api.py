"""The seam of the weights plane: how the packed buckets of one version travel from the learner to the actors.

    learner/weights/sender.py  --PublishPlan, PackedWeights-->  LearnerEnd.publish
                                                                       |  the transport's own bytes
    actor/weight_download.py   <---------buckets--------------  ActorEnd.download  <--UpdateWeights--  buffer

A transport moves bytes and gives up in time; nothing else. Packing and checksums (`buckets.py`), membership and cordons
(`buffer/core/membership.py`), retries and deadlines (`learner/weights/sender.py`) are the same for every transport. A new one
is a file next to `collective.py` and a line in `transports.py`: docs/extending.md shows one.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Protocol

import torch

from ..config.sections import WeightsConfig
from ..messages import PublishPlan, UpdateWeights
from ..types import Rendezvous
from .buckets import PackedWeights


class LearnerEnd(Protocol):
    """The learner's end of a transport. Rank 0 opens one for its life; the sender's thread alone calls it.

    Example:
        end = configured_transport(cfg.weights).open_learner_end(cfg.weights, device)
        client.send(Publish(generation=1, version=7, rendezvous=end.rendezvous, manifest=weights.manifest))
        plan = inbox.take(60.0)                                       # a PublishPlan: the actors know where to download from
        phases_s = end.publish(plan, weights, phase_timeout_s=2.6)    # blocks; WeightsError: at least one member may lack it
        end.disconnect()                                              # a member failed: the next plan has another epoch
        end.close()
    """

    @property
    def rendezvous(self) -> Rendezvous:
        """Where actors find this end. The same value from open to close, and another one for every other end."""
        ...

    def publish(self, plan: PublishPlan, weights: PackedWeights, phase_timeout_s: float) -> list[float]:
        """Give `weights`, which lie in host memory, to `plan.members`; returns the seconds of each phase, at least one.

        Called when: the buffer has planned the broadcast; every member has been sent an UpdateWeights of the same epoch, and
        may call `download` before or after this call. Plans of one epoch have the same members in the same order.
        Blocks: until this end has done its part. A phase (reaching the members; one bucket) lasts `phase_timeout_s` at most.
        Afterwards: the caller may overwrite `weights.buckets`. A return proves nothing about the members: their
        acknowledgements do, which carry checksums through the buffer.
        Raises: WeightsError when it failed for any member. The epoch is of no use then, as after `disconnect`.
        """
        ...

    def disconnect(self) -> None:
        """Drop the connections to the members of the last plan. The next plan has another epoch.

        Called when: a member failed in a way that only the buffer saw. May come twice, or before the first plan. Never blocks.
        """
        ...

    def close(self) -> None:
        """Disconnect, and give the rendezvous back. Downloads that are under way may fail. May come twice. Never blocks."""
        ...


class ActorEnd(Protocol):
    """The actor's end of a transport. An engine's first worker opens one for its life.

    Example:
        end = transport_named(update.rendezvous.transport, ENGINE_TRANSPORTS).open_actor_end(device)
        with closing(end.download(update, phase_timeout_s=2.6)) as buckets:
            staged = [(flat.to("cpu", copy=True), checksum(flat)) for flat in buckets]
        end.close()
    """

    def download(self, update: UpdateWeights, phase_timeout_s: float) -> Generator[torch.Tensor]:
        """Yield every bucket of `update.manifest`, in order: a flat tensor each, [num_bytes] uint8, of the host or the GPU.

        Called when: an UpdateWeights came and its manifest was checked. It runs in its own thread, while the engine generates,
        and puts what it does on a GPU on the thread's current stream.
        Blocks: each phase (reaching the learner; one bucket) about `phase_timeout_s` at most.
        Afterwards: a tensor in host memory stays as it is until the update was loaded, or the caller gave it up: the caller
        keeps views into it, and drops them when the load has ended. One on the GPU is a buffer that the next bucket overwrites;
        the caller copies it first, on the same stream.
        Raises: WeightsError when a bucket does not come in time, the learner has another manifest, or the rendezvous is
        none of this transport's.

        A generator that is closed early means that the caller failed: peers that would wait for this member should hear of it.
        A caller may give up on a download that hangs, and start another of a later epoch in another thread: the first one ends
        by its deadlines and must not disturb the second.
        """
        ...

    def close(self) -> None:
        """Leave the learner. A download that still hangs ends by its deadlines. May come twice. Never blocks."""
        ...


class EngineTransport(Protocol):
    """One way in which weights reach an engine. Holds no state: a process may open several ends."""

    def open_actor_end(self, device: torch.device) -> ActorEnd:
        """Open an end for an engine on `device`. It connects to no learner yet, so it neither blocks nor fails."""
        ...


class WeightTransport(EngineTransport, Protocol):
    """One way to move weights from the learner to actors: a line of `transports.TRANSPORTS`."""

    def open_learner_end(self, cfg: WeightsConfig, device: torch.device) -> LearnerEnd:
        """Open the end of a learner that computes on `device`. Raises WeightsError if actors could not reach it."""
        ...

"""The tables of weight transports: `weights.transport` at the learner, and `Rendezvous.transport` on the wire, name a line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from ..config.sections import WeightsConfig
from ..errors import WeightsError, require
from ..types import PULL
from .api import EngineTransport, WeightTransport
from .collective import NAME as COLLECTIVE
from .collective import CollectiveTransport
from .shared import NAME as SHARED
from .shared import SharedTransport

TRANSPORTS: dict[str, WeightTransport] = {
    COLLECTIVE: CollectiveTransport(),
}
# what an engine receives through: of a learner, or of the process that pulled for it
ENGINE_TRANSPORTS: Mapping[str, EngineTransport] = {**TRANSPORTS, SHARED: SharedTransport()}
T = TypeVar("T", bound=EngineTransport)


def configured_transport(cfg: WeightsConfig, table: Mapping[str, WeightTransport] = TRANSPORTS) -> WeightTransport:
    """The transport that a learner broadcasts with. Raises ConfigError when there is none of that name."""
    require(cfg.transport in table, "weights.transport", cfg.transport, f"one of {', '.join(sorted([*table, PULL]))}")
    return table[cfg.transport]


def broadcast_transport(cfg: WeightsConfig, table: Mapping[str, WeightTransport] = TRANSPORTS) -> WeightTransport | None:
    """As `configured_transport`; None with weights.transport=pull, where a learner broadcasts nothing (`pull/`)."""
    return None if cfg.transport == PULL else configured_transport(cfg, table)


def transport_named(name: str, table: Mapping[str, T]) -> T:
    """The transport of `table` that an update names. Raises WeightsError when there is none."""
    if name not in table:
        raise WeightsError(f"no weight transport is called {name[:80]!r}: expected one of {', '.join(sorted(table))}")
    return table[name]

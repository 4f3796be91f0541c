"""The table of weight transports: `weights.transport` at the learner, and `Rendezvous.transport` on the wire, name a line."""

from __future__ import annotations

from collections.abc import Mapping

from ..config.sections import WeightsConfig
from ..errors import WeightsError, require
from .api import WeightTransport
from .collective import NAME as COLLECTIVE
from .collective import CollectiveTransport

TRANSPORTS: dict[str, WeightTransport] = {
    COLLECTIVE: CollectiveTransport(),
}


def configured_transport(cfg: WeightsConfig, table: Mapping[str, WeightTransport] = TRANSPORTS) -> WeightTransport:
    """The transport that a learner sends with. Raises ConfigError when there is none of that name."""
    require(cfg.transport in table, "weights.transport", cfg.transport, f"one of {', '.join(sorted(table))}")
    return table[cfg.transport]


def transport_named(name: str, table: Mapping[str, WeightTransport] = TRANSPORTS) -> WeightTransport:
    """The transport that a learner named on the wire. Raises WeightsError when there is none."""
    if name not in table:
        raise WeightsError(f"no weight transport is called {name[:80]!r}: expected one of {', '.join(sorted(table))}")
    return table[name]

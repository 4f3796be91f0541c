"""The settings of the tickets that one stage of the run issues."""

from __future__ import annotations

from dataclasses import dataclass

from ...common.config.sections import Config
from ...common.types import Sampling


@dataclass(frozen=True, slots=True)
class TicketSettings:
    """How tickets are issued in one stage of the run."""

    sampling: Sampling
    weights: list[float]  # one for each entry of data.train

    @classmethod
    def from_config(cls, cfg: Config) -> TicketSettings:
        """The settings of a staged configuration."""
        drawn = cfg.sampling
        sampling = Sampling(
            n=drawn.n,
            temperature=drawn.temperature,
            top_p=drawn.top_p,
            top_k=drawn.top_k,
            min_p=drawn.min_p,
            stop=tuple(drawn.stop),
            max_tokens=drawn.max_tokens,
        )
        return cls(sampling, cfg.data.mixture)

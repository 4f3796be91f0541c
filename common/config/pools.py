"""The settings of a pool of actors; `actors.py` lays them over those of the run."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..errors import require


@dataclass(kw_only=True, slots=True)
class PoolConfig:
    """Actors of one kind, whose settings differ from those of the run: `prolong actor --pool NAME`."""

    # actor processes that `prolong train` starts on this machine, instead of launch.actors; 0: the pool is on other machines
    count: int = 1
    # GPUs of this machine that they take, as torch counts them, where these are not all alike; []: the next that are free
    gpus: list[int] = field(default_factory=list)
    actor: dict[str, object] = field(default_factory=dict)  # any key
    # dtype (of the engine; weights are converted when they are loaded), device
    model: dict[str, object] = field(default_factory=dict)
    verifiers: dict[str, object] = field(default_factory=dict)  # workers, timeout_s, hosts, keys
    weights: dict[str, object] = field(default_factory=dict)  # any key but bucket_mb

    def __post_init__(self) -> None:
        require(self.count >= 0, "pools.*.count", self.count, "0 or more")
        numbered = all(index >= 0 for index in self.gpus) and len(set(self.gpus)) == len(self.gpus)
        require(numbered, "pools.*.gpus", self.gpus, "different numbers of GPUs, from 0")

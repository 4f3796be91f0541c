"""How much an engine had to do: sums over its steps since it started; differences of them give the mean over any time."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(slots=True)
class EngineLoad:
    """Example: mean rollouts that ran between two looks = (later.running - earlier.running) / (later.steps - earlier.steps)."""

    steps: float = 0.0  # passes through the model
    tokens: float = 0.0  # sampled
    running: float = 0.0  # rollouts that took part, summed over steps
    waiting: float = 0.0  # rollouts that waited for room, summed over steps
    kv_use: float = 0.0  # share of the cache of keys and values that was taken, summed over steps; 0 where it has no limit
    preemptions: float = 0.0  # rollouts that lost their place in the cache to others

    def step(self, tokens: int, running: int, waiting: int, kv_use: float = 0.0) -> None:
        """Count one pass through the model."""
        self.steps += 1
        self.tokens += tokens
        self.running += running
        self.waiting += waiting
        self.kv_use += kv_use

    def encode(self) -> str:
        """As a text that `decode` reads."""
        return ",".join(repr(number) for number in asdict(self).values())

    @classmethod
    def decode(cls, text: str) -> EngineLoad:
        return cls(*map(float, text.split(",")))

    def numbers(self) -> dict[str, float]:
        """For an actor's heartbeats."""
        return {f"engine_{name}": number for name, number in asdict(self).items()}

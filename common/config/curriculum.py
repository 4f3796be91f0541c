"""The settings of a curriculum: which prompts are drawn more often than others (docs/curriculum.md)."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import require


@dataclass(kw_only=True, slots=True)
class CurriculumConfig:
    """How training prompts are ordered by their pass rates. `every` alone switches it on."""

    every: int = 16  # versions between two plans: each orders all prompts anew, by what their rollouts earned
    solved: float = 0.9  # mean reward from which a prompt rests
    memory: float = 0.9  # share of what is known of a prompt that is left after a plan; with 1 a solved prompt rests for ever
    # validation sweeps without a better score after which nearly all is forgotten, and every prompt is tried again; 0: never
    plateau: int = 0

    def __post_init__(self) -> None:
        require(self.every >= 1, "buffer.curriculum.every", self.every, "at least 1")
        require(0 < self.solved <= 1, "buffer.curriculum.solved", self.solved, "in (0, 1]")
        require(0 <= self.memory <= 1, "buffer.curriculum.memory", self.memory, "in [0, 1]")
        require(self.plateau >= 0, "buffer.curriculum.plateau", self.plateau, "0 or more")

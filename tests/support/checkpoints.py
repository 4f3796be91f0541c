"""The content of a checkpoint, for tests."""

from __future__ import annotations

from pathlib import Path

from prolong.learner.checkpoints.checkpoint import open_policy
from torch import Tensor


def load_weights(checkpoint: Path) -> dict[str, Tensor]:
    """The policy by name, whole and on the CPU."""
    with open_policy(checkpoint) as (stored, names):
        return {name: stored.read(place) for name, place in names.items()}

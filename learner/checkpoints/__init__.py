"""Checkpoints: what they hold, how they are written beside training, how they are read."""

"""The mathematics of a step: rewards, advantages, losses, corrections, KL, entropy. Pure functions of tensors."""

"""The mathematics of a step: rewards, advantages, losses, corrections, KL, entropy. Functions of tensors and arrays.

step.py enters through samples.py (before any forward), objective.py (the loss of a micro-batch) and token_stats.py (its
metrics). A new policy loss follows api.py; docs/extending.md has two worked examples.
"""

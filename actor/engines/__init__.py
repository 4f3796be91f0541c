"""Engines generate completions for tickets and take weights: a seam (`api.py`) and one sub-package per engine.

Entered through `registry.py`; the actor knows only the protocol.
"""

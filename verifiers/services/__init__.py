"""Judges outside of the worker: HTTP services, environments in processes. Enter by adapters.py; the pool by model_judge.py."""

"""Judges outside of the worker: HTTP services, and environments in processes of their own. Enter by adapters.py."""

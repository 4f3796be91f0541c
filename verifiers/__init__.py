"""Verifiers: from a completion to a verdict, in killable workers. Actors and `prolong verifier` enter by workers/pool.py."""

"""Puzzles of Reasoning Gym: their verifier, and our scorers in place of those of the library."""

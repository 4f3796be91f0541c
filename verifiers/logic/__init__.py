"""Puzzles of Reasoning Gym: their verifier, and the scorers that replace those of the library."""

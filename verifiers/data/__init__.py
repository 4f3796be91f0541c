"""Prompt records made of public data sets and by generators. For `prolong data` only."""

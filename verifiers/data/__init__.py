"""Prompt records made from public data sets and from generators. For `prolong data` alone."""

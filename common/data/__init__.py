"""Prompt files and their records, read in one place for the buffer, `prolong train` and `prolong data`."""

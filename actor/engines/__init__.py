"""Engines: what generates completions for tickets and takes weights. One sub-package for each."""

"""A run in virtual time: the shipped buffer core, driven by simulated actors, engines, verifiers and a learner.

`cluster.py` describes the machines, `simulate.py` runs them; nothing here opens a socket or writes to a disk.
"""

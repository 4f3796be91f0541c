"""The journal: all that a buffer which restarts must find again, and the disk behind it.

The core writes it; replay, diff and the audit read it.
"""

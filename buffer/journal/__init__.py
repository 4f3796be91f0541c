"""The journal: what a buffer that restarts must find again, and the disk behind it."""

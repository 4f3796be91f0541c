"""The sandbox for untrusted code: its backends, the jail inside them, and the self-test. Enter by opening.py."""

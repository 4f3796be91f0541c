"""The socket loop of the buffer, and output commit: no message is sent before the disk holds what it follows from.

`main` starts it.
"""

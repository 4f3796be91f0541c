"""The protocol of the buffer without socket, clock or thread: messages and times in, messages out.

`serving` calls it, and the simulator of the tests.
"""

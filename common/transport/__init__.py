"""Bytes between processes: frames, ZeroMQ sockets, CURVE keys, and who may connect. For buffer, verifiers and their clients."""

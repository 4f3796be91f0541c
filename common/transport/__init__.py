"""The transport that the buffer and the remote verifiers share: frames, ZeroMQ sockets, CURVE keys, admission, quarantine."""

"""The protocol of the buffer without socket, clock or thread: messages and times in, messages out."""

"""The socket loop of the buffer, and the rule that nothing is sent before it is durable."""

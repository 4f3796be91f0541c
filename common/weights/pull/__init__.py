"""Weights that are pulled: chunks, deltas between versions, catalogs that prove them, and the sockets that serve them."""

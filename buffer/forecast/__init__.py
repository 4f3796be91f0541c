"""When work will be back: how fast each actor is, how long completions get, and how long a ticket may take.

The core of the buffer asks; nothing here knows sockets, clocks or the journal. A forecast that is wrong costs time, never the
bound on staleness.
"""

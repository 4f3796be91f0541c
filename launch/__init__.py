"""The command line, the local supervisor, and what people look at."""

"""The command line: one module per command, or one room where a command is large. Only bench imports from here."""

"""`prolong train`: all processes of a run on this machine, supervised, with a live view."""

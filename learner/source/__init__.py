"""Where batches come from and where progress is reported: a live buffer, or the recorded batches of a run. For main.py."""

"""Where batches come from: a live buffer, or the journal of a recorded run."""

"""From samples to micro-batches: packing without padding, and attention over packed documents. All of the learner may enter."""

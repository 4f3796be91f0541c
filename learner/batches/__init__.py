"""From groups to micro-batches: packing without padding, and attention over packed documents."""

"""The policy and its frozen reference: transformers models behind one guarded forward. For step.py, checkpoints and sources."""

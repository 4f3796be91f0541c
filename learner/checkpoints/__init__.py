"""Checkpoints: their format on the disk (checkpoint.py) and the thread that writes them (saver.py).

main.py and tests enter; the rest of the learner does not know that it is saved.
"""

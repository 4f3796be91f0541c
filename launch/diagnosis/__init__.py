"""Where the time of a recorded run went, what holds it up, what would make it faster, and what looks wrong with its training.

`diagnose.py` is the way in; it only reads the folder of the run. `diagnosis.py` holds what it returns.
"""

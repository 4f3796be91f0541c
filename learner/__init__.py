"""The learner: turns batches of scored groups into policy versions.

launch starts it through main.py. Nothing else of the product imports it, except launch/replay and bench.
"""

"""`prolong train`: the processes of a run on this machine, supervised, with a live view.

`launch/cli.py` enters by train.py; doctor and replay use preflight, placement, process and live.
"""

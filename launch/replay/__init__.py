"""`prolong replay` runs a recorded run again; `prolong diff` names the first step at which two runs differ.

`launch/cli.py` enters by replay.py and diff.py.
"""

"""`prolong replay` and `prolong diff`: a recorded run again, and where two runs part."""

"""What a process says of itself while it runs: its state and its numbers, over HTTP. Every process of a run may use it.

exposition.py writes numbers as Prometheus reads them, vitals.py holds the newest ones, endpoint.py serves them.
"""

"""Training tickets from issue to trained: ledger, staleness contract, leases, filters, prompts. No socket, no clock.

The core alone changes them. `api.py` is the seam for sources of prompts.
"""

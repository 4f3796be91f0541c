"""Training tickets from issue to trained: ledger, staleness contract, leases, filters, prompts. No socket, no clock."""

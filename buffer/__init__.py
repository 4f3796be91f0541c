"""The buffer: tickets, ledger, staleness contract, and the one address that everybody knows."""

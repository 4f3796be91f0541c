"""The policy losses, one table from their names to them (table.py). They implement algorithm/api.py; step.py builds them."""

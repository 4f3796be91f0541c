"""Comparisons of our losses with those of TRL and verl. They run in a separate environment (`make parity`)."""

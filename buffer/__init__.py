"""The buffer: tickets, ledger, staleness contract, journal, and the one address that every other process knows.

Actors, the learner and observers may import `client` only; `launch` and `bench` may import any room.
"""

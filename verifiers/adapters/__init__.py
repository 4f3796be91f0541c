"""Reward functions of other libraries, of HTTP services and of users, as verifiers."""

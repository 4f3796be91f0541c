"""Tests of prolong. Test modules import what they share from `tests.support`, the simulator from `tests.simulator`."""

"""`make test` runs the suite in lanes: one worker of pytest-xdist starts the whole runs, the others share the other files.

Whole runs and real engines fill both cores for seconds at a time and have deadlines of seconds: side by side they would miss
them, so they run one after the other in one worker, which mostly waits. The other workers meanwhile take one file after
another; a file is never divided, so that a module's fixtures are made once.
"""

from __future__ import annotations

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

RUN_LANE = "whole runs and engines"
RUN_LANE_FILES = {
    "tests/chaos/test_actor_weight_faults.py",
    "tests/chaos/test_elasticity.py",
    "tests/chaos/test_handovers.py",
    "tests/chaos/test_kills.py",
    "tests/chaos/test_pulled_weights.py",
    "tests/chaos/test_stages.py",
    "tests/chaos/test_thirty_kills.py",
    "tests/integration/test_actor.py",
    "tests/integration/test_agreement.py",
    "tests/integration/test_by_hand.py",
    "tests/integration/test_engine_args.py",
    "tests/integration/test_engine_contract.py",
    "tests/integration/test_engine_death.py",
    "tests/integration/test_engine_families.py",
    "tests/integration/test_examples.py",
    "tests/integration/test_far_hosts.py",
    "tests/integration/test_gpu_weights.py",
    "tests/integration/test_pools.py",
    "tests/integration/test_shared_weights.py",
    "tests/integration/test_simulated_sleepers.py",
    "tests/integration/test_slurm.py",
    "tests/integration/test_three_terminals.py",
    "tests/integration/test_torchrun.py",
    "tests/integration/test_weight_updates.py",
}


def lane_of(nodeid: str) -> str:
    """The lane of a test. Tests of one lane run in one worker, in the order of collection."""
    file = nodeid.partition("::")[0]
    return RUN_LANE if file in RUN_LANE_FILES else file


def sort_key(nodeid: str) -> bool:
    """Lanes are handed out in this order: the longest first, then files by name, which puts unit tests last."""
    return lane_of(nodeid) != RUN_LANE


class LaneScheduling(LoadScopeScheduling):
    """Hands out whole lanes."""

    def _split_scope(self, nodeid: str) -> str:
        return lane_of(nodeid)


def make_scheduler(config: pytest.Config, log: Producer) -> LaneScheduling:
    # keep the order of collection: by default xdist puts the lanes with most tests first, and our tests differ in length
    config.option.loadscopereorder = False
    return LaneScheduling(config, log)

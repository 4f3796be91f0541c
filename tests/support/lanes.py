"""`make test` runs the suite in lanes: one worker of pytest-xdist starts the processes, the others share the rest.

Whole runs, engines, learners and kills have deadlines of seconds; side by side on two cores they would miss them, so they run
one after the other in one worker. They mostly wait. The other workers meanwhile take the remaining files, one file at a time,
so that a module's fixtures are made once.
"""

from __future__ import annotations

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

PROCESS_LANE = "processes"
PROCESS_FOLDERS = ("tests/chaos/", "tests/integration/")
# tests of one process or of processes that nothing times closely
SHARED_FILES = {
    "tests/integration/test_adapters.py",
    "tests/integration/test_bootstrap_training.py",
    "tests/integration/test_code_pool.py",
    "tests/integration/test_code_problems.py",
    "tests/integration/test_data_check.py",
    "tests/integration/test_full_disk.py",
    "tests/integration/test_hostile_math.py",
    "tests/integration/test_learner_ranks.py",
    "tests/integration/test_reasoning_gym.py",
    "tests/integration/test_sandbox_attacks.py",
    "tests/integration/test_sandbox_users.py",
    "tests/integration/test_security.py",
    "tests/integration/test_service.py",
    "tests/integration/test_status.py",
    "tests/integration/test_verifier_faults.py",
    "tests/integration/test_verifier_hosts.py",
    "tests/integration/test_verifier_pool.py",
    "tests/chaos/test_simulated_faults.py",
}


def lane_of(nodeid: str) -> str:
    """Tests of one lane run in one worker, in order: the process lane, or the test's own file."""
    file = nodeid.partition("::")[0]
    if file.startswith(PROCESS_FOLDERS) and file not in SHARED_FILES:
        return PROCESS_LANE
    return file


def sort_key(nodeid: str) -> int:
    """The order in which lanes are handed out: the longest first, so that the workers end together."""
    lane = lane_of(nodeid)
    if lane == PROCESS_LANE:
        return 0
    return 1 if lane.startswith(PROCESS_FOLDERS) else 2


class LaneScheduling(LoadScopeScheduling):
    """Hands out whole lanes."""

    def _split_scope(self, nodeid: str) -> str:
        return lane_of(nodeid)


def make_scheduler(config: pytest.Config, log: Producer) -> LaneScheduling:
    # keep the order of collection: by default xdist puts the lanes with most tests first, and our tests differ in length
    config.option.loadscopereorder = False
    return LaneScheduling(config, log)

"""The lanes of `make test`."""

from pathlib import Path

from tests.support.lanes import RUN_LANE, RUN_LANE_FILES, lane_of, sort_key

ROOT = Path(__file__).resolve().parents[2]


def test_the_files_of_the_lane_for_whole_runs_exist() -> None:
    assert {file for file in RUN_LANE_FILES if not (ROOT / file).exists()} == set()


def test_every_other_file_is_a_lane_of_its_own_behind_the_long_one() -> None:
    long, other = "tests/chaos/test_kills.py::test_a[x::y]", "tests/unit/test_lanes.py::test_b[x::y]"
    assert (lane_of(long), lane_of(other)) == (RUN_LANE, "tests/unit/test_lanes.py")
    assert sorted([other, long], key=sort_key) == [long, other]

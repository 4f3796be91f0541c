"""Groups of a journal that stand for all, from the folder of a run."""

from pathlib import Path

import pytest
from prolong.bench.synthetic_run import SyntheticSize, write_synthetic_run
from prolong.buffer.journal.journal import Journal
from prolong.common.errors import JournalError
from prolong.launch.plan.recorded import some_groups


def test_some_groups_are_spread_over_the_journal_without_those_that_it_drops_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = write_synthetic_run(tmp_path / "run", SyntheticSize(steps=5, groups=4, n=2, tokens=8, prompts=8))
    assert [group.ordinal for group in some_groups(paths.journal, 100)] == list(range(20))
    assert [group.ordinal for group in some_groups(paths.journal, 4)] == [0, 6, 12, 18]
    # between the list of groups and the last one's turn the buffer of a live run has let go of it
    monkeypatch.setattr(Journal, "groups", lambda _: [0, 1, 10_000])
    assert [group.ordinal for group in some_groups(paths.journal, 100)] == [0, 1]
    with pytest.raises(JournalError, match="there is no journal"):
        some_groups(tmp_path / "nowhere", 4)

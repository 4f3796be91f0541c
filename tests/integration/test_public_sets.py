"""Public data sets, from their columns to rewards: the table of docs/data.md is what is measured."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from prolong.bench.data_sets import read_set_records, table_of_sets, try_sets
from prolong.common.config.verifiers import VerifiersConfig

from tests.support.sandboxes import BACKENDS, missing

PAGE = Path(__file__).parents[2] / "docs" / "data.md"


@pytest.mark.skipif(all(missing(backend) for backend in BACKENDS.values()), reason="no sandbox on this machine")
def test_every_set_earns_what_the_page_says() -> None:
    records = read_set_records()
    trials = asyncio.run(try_sets(records, replace(VerifiersConfig(), workers=2)))
    assert [problem for trial in trials.values() for problem in trial.problems] == []
    assert table_of_sets(trials) in PAGE.read_text(encoding="utf-8")

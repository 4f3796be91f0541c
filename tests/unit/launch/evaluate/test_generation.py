"""The rollouts of an evaluation reach the disk while others are sampled."""

from __future__ import annotations

import asyncio
from contextlib import closing
from pathlib import Path
from typing import cast

import pytest
from prolong.actor.rollouts import RolloutWorker
from prolong.common.types import Group, Ticket
from prolong.launch.evaluate import generation
from prolong.launch.evaluate.generation import sample_missing
from prolong.launch.evaluate.store import EvaluationStore

from .test_store import ASKED, PROMPTS, group_of

DEADLINE_S = 100.0


def test_a_rollout_is_recorded_though_no_other_ends_for_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last rollout of each prompt takes until the others are on the disk; a kill would have cost them."""
    monkeypatch.setattr(generation, "COMMIT_S", 0.01)
    with closing(EvaluationStore(tmp_path, ASKED, PROMPTS, 1)) as store:
        recorded, ended = asyncio.Event(), []
        commit = store.commit

        def committed() -> None:
            commit()
            if len(ended) == len(PROMPTS) - 1:
                recorded.set()

        monkeypatch.setattr(store, "commit", committed)

        class Worker:
            async def work(self, ticket: Ticket) -> Group:
                if ticket.ordinal == len(PROMPTS) - 1:
                    await recorded.wait()
                return group_of(ticket)

        asyncio.run(asyncio.wait_for(sample_missing(cast(RolloutWorker, Worker()), store, 8, ended.append), DEADLINE_S))
        assert store.num_missing == 0

"""A hundred thousand rollouts under more than five hundred faults, in virtual time: the shipped buffer, journal and sessions.

The promises are checked at every event and every commit (tests/simulator/judge.py, audit.py): no acknowledged group is lost,
none is trained twice in one history, older than eta or of a wrong generation, the ledger balances, and a restarted buffer is
what it was at its last commit. `make soak` (PROLONG_SOAK=1) runs ten times as many.
"""

from __future__ import annotations

import os

import pytest

from tests.simulator.campaign import Account, run_all
from tests.simulator.faults import Kind
from tests.simulator.plan import HARSHER, Plan

SOAK = bool(os.environ.get("PROLONG_SOAK"))
WORLDS = 8
ROLLOUTS, FAULTS = (1_000_000, 1_000) if SOAK else (100_000, 500)
MARGIN = 1.3  # faults that find no victim are not counted


def show(account: Account) -> None:
    print(f"\n{account}")


@pytest.mark.slow
@pytest.mark.timeout(7200 if SOAK else 1200)
def test_nothing_is_lost_trained_twice_too_old_or_of_a_dead_generation() -> None:
    share = {"rollouts": ROLLOUTS // WORLDS, "faults": int(MARGIN * FAULTS / WORLDS)}
    account = run_all(Plan.large(seed, **share) for seed in range(WORLDS))
    show(account)
    assert account.rollouts >= ROLLOUTS
    assert account.faults >= FAULTS
    for kind in (Kind.kill, Kind.leave, Kind.pause, Kind.sever, Kind.cut, Kind.full, Kind.broken):
        assert account.struck[kind] >= 3, (
            f"{kind}: {account.struck[kind]} of {account.faults} faults, the run shows nothing of it"
        )


@pytest.mark.parametrize("kind", HARSHER)
def test_frames_as_no_connection_delivers_them_break_no_promise_but_to_end(kind: Kind) -> None:
    """Inside one connection a client never repeats a question, so one that is lost there is never answered."""
    num_seeds = 400 if SOAK else 40
    account = run_all((Plan.harsher(seed, kind) for seed in range(num_seeds)), may_be_stuck=True)
    show(account)
    assert account.struck[kind] >= num_seeds
    assert len(account.stuck) <= num_seeds // 10

from __future__ import annotations

import sys

import pytest
from prolong.buffer.tickets.staleness import StalenessContract, choose_counts, required
from prolong.common.config.sections import Preference, Straggler
from prolong.common.errors import LedgerError

EARLIEST, FRESHEST = Preference.earliest_deadline, Preference.freshest


def contract(
    *, eta: int = 2, batch: int = 2, steps: int = 100, straggler: Straggler = Straggler.wait, preference: Preference = EARLIEST
) -> StalenessContract:
    return StalenessContract(eta=eta, batch=batch, steps=steps, straggler=straggler, preference=preference)


def test_required_counts_what_later_batches_cannot_hold() -> None:
    assert required([1, 2, 0], 2) == [1, 1, 1]  # the first must go; the next two fit into the next batch
    assert required([0, 4, 2], 2) == [0, 2, 2]  # of four due next time, two must go now
    assert required([0, 0, 0], 2) == [0, 0, 0]


def test_earliest_deadline_takes_the_oldest_and_freshest_as_few_of_them_as_it_may() -> None:
    stored, need = [1, 2, 3], [1, 1, 1]
    assert choose_counts(stored, need, 3, EARLIEST) == [1, 2, 0]
    assert choose_counts(stored, need, 3, FRESHEST) == [1, 0, 2]


def test_no_choice_while_a_group_that_is_due_has_not_arrived() -> None:
    assert choose_counts([0, 5, 5], required([1, 5, 0], 2), 2, EARLIEST) is None
    assert choose_counts([1, 0, 0], [0, 0, 0], 2, EARLIEST) is None  # not enough groups


def test_at_most_eta_plus_one_batches_are_under_way() -> None:
    c = contract(eta=1, batch=2)
    assert c.admits(0, 0, untrained=3)
    assert not c.admits(0, 0, untrained=4)


def test_nothing_is_issued_that_no_step_will_take() -> None:
    c = contract(eta=1, batch=2, steps=3)
    c.clear(head=2)
    assert c.admits(2, 2, untrained=1)
    assert not c.admits(2, 2, untrained=2)


def test_eta_zero_is_synchronous() -> None:
    c = contract(eta=0, batch=2)
    for ordinal in range(2):
        assert c.admits(0, 0, untrained=ordinal)
        c.issue(ordinal, 0)
    assert not c.admits(0, 0, untrained=2)
    for ordinal in range(2):
        c.store(ordinal, 0)
    c.take(c.choose() or [])
    assert not c.admits(0, 0, untrained=2)  # the batch is in training
    assert not c.admits(0, 1, untrained=0)  # version 0 is too old for the next batch
    assert c.admits(1, 1, untrained=0)


def test_a_lagging_actor_gets_a_ticket_only_while_its_deadline_class_has_room() -> None:
    c = contract(eta=1, batch=2)
    c.clear(head=5)
    assert c.admits(4, 5, untrained=0)
    c.issue(0, 4)
    c.issue(1, 4)
    assert not c.admits(4, 5, untrained=2)  # the next batch is full of tickets that are due
    assert c.admits(5, 5, untrained=2)
    assert not c.admits(3, 5, untrained=2)  # older than eta from the start
    assert not c.admits(6, 5, untrained=2)  # of no version that there is


@pytest.mark.parametrize("straggler", [Straggler.evict, Straggler.mask])
def test_evict_and_mask_admit_a_lagging_actor_without_the_inequality(straggler: Straggler) -> None:
    c = contract(eta=1, batch=2, straggler=straggler)
    c.clear(head=5)
    for ordinal in range(3):
        assert c.admits(4, 5, untrained=ordinal)
        c.issue(ordinal, 4)


def test_the_learner_waits_for_the_straggler_and_takes_it_first() -> None:
    c = contract(eta=1, batch=2)
    for ordinal in range(4):
        c.issue(ordinal, 0)
    for ordinal in (1, 2, 3):
        c.store(ordinal, 0)
    assert c.choose() == [1, 2]  # 0 and 3 fit into the next batch
    c.take([1, 2])
    assert c.choose() is None  # 0 is due
    c.store(0, 0)
    assert c.choose() == [0, 3]


def test_a_group_with_fresher_tokens_than_its_ticket_has_a_later_deadline() -> None:
    c = contract(eta=0, batch=1)
    c.clear(head=3)
    c.issue(0, 3)
    c.issue(1, 3)  # more than admission would allow
    assert c.choose() is None
    c.store(0, 3)
    with pytest.raises(LedgerError, match="no choice can meet the deadlines"):
        c.choose()
    c = contract(eta=1, batch=1)
    c.issue(0, 0)
    c.issue(1, 0)
    c.store(0, 0)
    c.take([0])
    c.store(1, 1)  # its first token was sampled after the update
    assert c.take(c.choose() or []) == []


def test_a_dropped_ticket_gives_its_place_back_stored_or_not() -> None:
    c = contract(eta=0, batch=1)
    c.issue(0, 0)
    assert not c._feasible_with(0)
    c.drop(0)
    assert c._feasible_with(0)
    c.issue(1, 0)
    c.store(1, 0)
    assert not c._feasible_with(0)
    c.drop(1)
    assert c._feasible_with(0)
    assert c.choose() is None


def test_evict_drops_what_missed_its_deadline() -> None:
    c = contract(eta=0, batch=1, straggler=Straggler.evict)
    for ordinal in (0, 1):
        c.issue(ordinal, 0)
        c.store(ordinal, 0)
    assert c.take(c.choose() or []) == [1]
    assert c.choose() is None


def test_wait_raises_rather_than_leave_a_ticket_past_its_deadline() -> None:
    c = contract(eta=0, batch=1)
    for ordinal in (0, 1):
        c.issue(ordinal, 0)
        c.store(ordinal, 0)
    with pytest.raises(LedgerError, match="past their deadline at version 1"):
        c.take([0])


def calls_of_choice(eta: int) -> tuple[list[int] | None, int]:
    """A choice among (eta + 1) x 256 groups that arrived in reverse, and the number of calls that it took."""
    c = contract(eta=eta, batch=256)
    for ordinal in range((eta + 1) * 256):
        c.issue(ordinal, 0)
    for ordinal in reversed(range((eta + 1) * 256)):
        c.store(ordinal, 0)
    calls: list[str] = []
    sys.setprofile(lambda frame, event, argument: calls.append(event))
    try:
        chosen = c.choose()
    finally:
        sys.setprofile(None)
    return chosen, len(calls)


def test_a_batch_is_chosen_in_as_many_steps_as_it_has_groups_however_many_are_stored() -> None:
    few, many = calls_of_choice(8), calls_of_choice(64)
    assert few[0] == many[0] == list(range(256))
    assert few[1] < 10 * 256
    # a few more for each deadline
    assert many[1] - few[1] < 30 * (64 - 8)

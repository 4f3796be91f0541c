"""Feasibility selection and admission against brute force, on every small instance."""

from __future__ import annotations

from itertools import product

import pytest
from prolong.buffer.tickets.staleness import StalenessContract, choose_counts, required
from prolong.common.config.sections import Preference, Straggler

Counts = tuple[int, ...]


def schedulable(pending: Counts, batch: int) -> bool:
    """Naive oracle: can batches of `batch`, one a slot, take every ticket by its deadline (class k: in slots 0..k)?

    Fills the slots one after the other, and tries every way to fill each.
    """
    if not any(pending):
        return True
    if not pending:
        return False
    return any(
        schedulable(tuple(have - taken for have, taken in zip(pending, choice, strict=True))[1:], batch)
        for choice in choices(pending, batch)
        if choice[0] == pending[0]  # the first class has no later slot
    )


def choices(stored: Counts, batch: int) -> list[Counts]:
    """Every way to take at most `batch` of these."""
    return [choice for choice in product(*(range(have + 1) for have in stored)) if sum(choice) <= batch]


def feasible_choices(stored: Counts, waiting: Counts, batch: int) -> list[Counts]:
    """Every full batch of stored groups after which all that is left can still meet its deadline."""
    full = [choice for choice in choices(stored, batch) if sum(choice) == batch]
    left = [(c, tuple(s + w - t for s, w, t in zip(stored, waiting, c, strict=True))) for c in full]
    return [choice for choice, rest in left if rest[0] == 0 and schedulable(rest[1:], batch)]


@pytest.mark.parametrize("batch", [1, 2, 3])
@pytest.mark.parametrize("classes", [1, 2, 3])
def test_selection_finds_a_batch_exactly_when_brute_force_does_and_prefers_as_asked(classes: int, batch: int) -> None:
    most = 3 if classes < 3 else 2
    num_feasible = 0
    for counts in product(range(most + 1), repeat=2 * classes):
        stored, waiting = counts[:classes], counts[classes:]
        pending = tuple(s + w for s, w in zip(stored, waiting, strict=True))
        possible = feasible_choices(stored, waiting, batch)
        num_feasible += bool(possible)
        for preference in Preference:
            chosen = choose_counts(stored, required(pending, batch), batch, preference)
            if not possible:
                assert chosen is None, (stored, waiting, preference)
            elif preference is Preference.earliest_deadline:
                assert tuple(chosen or ()) == max(possible), (stored, waiting)
            else:
                assert tuple(chosen or ()) == max(possible, key=lambda choice: choice[::-1]), (stored, waiting)
    assert num_feasible > 0


@pytest.mark.parametrize("eta", [0, 1, 2])
@pytest.mark.parametrize("batch", [1, 2])
def test_admission_to_a_lagging_actor_is_exactly_what_leaves_a_schedule(eta: int, batch: int) -> None:
    num_admitted = num_refused = 0
    for pending in product(range(3), repeat=eta + 1):
        if not schedulable(pending, batch):
            continue
        for age in range(eta + 2):  # eta + 1: too old from the start
            contract = StalenessContract(
                eta=eta, batch=batch, steps=100, straggler=Straggler.wait, preference=Preference.earliest_deadline
            )
            contract.clear(head=10)
            ordinals = iter(range(1000))
            for k, count in enumerate(pending):
                for _ in range(count):
                    contract.issue(next(ordinals), 10 + k - eta)
            admitted = contract.admits(10 - age, 10, sum(pending))
            with_it = [*pending, 0]
            with_it[eta - age] += 1
            expected = age <= eta and schedulable(tuple(with_it[:-1]), batch)
            assert admitted == expected, (pending, age)
            num_admitted += admitted
            num_refused += not admitted
    assert num_admitted > 0
    assert num_refused > 0

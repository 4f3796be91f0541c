"""The ages of groups, with tokens of several versions."""

from __future__ import annotations

import pytest
from prolong.buffer.tickets.ages import GroupAges
from prolong.common.config.sections import Straggler
from prolong.common.errors import StalenessViolation
from prolong.common.types import Group, Ticket, TicketKind

from ..scene import SAMPLING, group, prompt, rollout


def of_versions(*versions: int, eta: int | None = 2) -> Group:
    """A group of two rollouts: one with tokens of all these versions, one of the last."""
    ticket = Ticket(
        ordinal=7,
        kind=TicketKind.train,
        prompt=prompt(),
        sampling=SAMPLING,
        seed=0,
        generation=1,
        version=versions[0],
        eta=eta,
        lease_s=1.0,
    )
    return group(ticket, rollout(*versions), rollout(versions[-1]))


@pytest.mark.parametrize("straggler", [Straggler.wait, Straggler.evict])
def test_the_oldest_token_decides_where_all_are_trained(straggler: Straggler) -> None:
    ages, mixed = GroupAges(straggler, 4), of_versions(3, 4, 5)
    assert ages.deadline_version(mixed) == 3
    assert ages.of_batch([mixed, of_versions(5)], 5) == {"buffer/staleness_mean": 1.0, "buffer/staleness_max": 2.0}
    with pytest.raises(StalenessViolation, match="group 7 of staleness 3 was chosen at version 6, its ticket allows 2"):
        ages.of_batch([mixed], 6)


def test_under_mask_the_newest_token_decides_and_those_that_are_too_old_are_not_counted() -> None:
    ages, mixed = GroupAges(Straggler.mask, 4), of_versions(3, 4, 5)
    assert ages.deadline_version(mixed) == 5
    assert ages.of_batch([mixed], 6)["buffer/staleness_max"] == 2.0
    assert ages.of_batch([mixed], 7)["buffer/staleness_max"] == 2.0


def test_a_group_whose_ticket_does_not_say_may_have_the_largest_age() -> None:
    ages = GroupAges(Straggler.wait, 4)
    assert ages.of_batch([of_versions(3, eta=None)], 7)["buffer/staleness_max"] == 4.0
    with pytest.raises(StalenessViolation, match="its ticket allows 4"):
        ages.of_batch([of_versions(3, eta=None)], 8)

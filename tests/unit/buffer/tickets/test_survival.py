from __future__ import annotations

from prolong.buffer.tickets.counters import ALWAYS_REPORTED, Counters
from prolong.buffer.tickets.survival import Survival
from prolong.common.types import Group, TicketKind, ValidationSetting

from ..scene import SAMPLING, prompt, rollout


def sized(tokens: int) -> Group:
    return Group(
        ordinal=0,
        kind=TicketKind.train,
        generation=1,
        prompt=prompt(),
        setting=ValidationSetting.none,
        sampling=SAMPLING,
        rollouts=[rollout(0, tokens=tokens)] * 2,
        actor="a",
        seconds=1.0,
    )


def test_a_bound_that_eats_long_answers_shows_in_the_last_deciles() -> None:
    survival = Survival()
    for tokens in range(1, 101):
        survival.record(sized(tokens), survived=tokens <= 85)
    rates = survival.rates()
    assert [rates[f"buffer/survival_d{k}"] for k in range(10)] == [1.0] * 8 + [0.5, 0.0]


def test_below_ten_groups_there_are_no_deciles() -> None:
    survival = Survival()
    for _ in range(9):
        survival.record(sized(3), survived=True)
    assert survival.rates() == {}


def test_only_the_last_groups_count() -> None:
    survival = Survival(window=10)
    for survived in [False] * 10 + [True] * 10:
        survival.record(sized(3), survived=survived)
    assert set(survival.rates().values()) == {1.0}


def test_counts_are_kept_over_the_run_and_per_step() -> None:
    counters = Counters()
    counters.count("buffer/filtered", 3)
    assert counters.next_step()["buffer/filtered"] == 3.0
    counters.count("buffer/filtered")
    step = counters.next_step()
    assert (step["buffer/filtered"], counters.total["buffer/filtered"]) == (1.0, 4)
    assert set(ALWAYS_REPORTED) <= set(step), "a metric that appears only after its first event cannot be plotted"

"""How long completions get: by task, by how often the prompt was solved, and by the prompt itself."""

from __future__ import annotations

import math
import random

import pytest
from prolong.buffer.forecast.lengths import LengthForecast
from prolong.common.types import Group, Prompt, Ticket, TicketKind

from ..scene import SAMPLING, group, prompt, rollout


def of_lengths(about: Prompt, lengths: list[int], rewards: list[float] | None = None) -> Group:
    ticket = Ticket(
        ordinal=0, kind=TicketKind.train, prompt=about, sampling=SAMPLING, seed=0, generation=1, version=0, lease_s=1.0
    )
    solved = rewards or [1.0] * len(lengths)
    return group(ticket, *(rollout(0, tokens=tokens, reward=reward) for tokens, reward in zip(lengths, solved, strict=True)))


def test_nothing_is_known_before_the_first_group() -> None:
    assert LengthForecast().longest(prompt(0), 8, 1000) is None


@pytest.mark.parametrize("n", [1, 4, 16])
def test_the_longest_of_n_is_what_sampling_it_finds(n: int) -> None:
    forecast, rng = LengthForecast(), random.Random(0)

    def draw() -> int:
        return int(400 * math.exp(rng.gauss(0.0, 0.6)))

    for index in range(1500):
        forecast.note(prompt(index), of_lengths(prompt(index), [draw() for _ in range(8)]))
    found = forecast.longest(prompt(9_999), n, 100_000)
    assert found is not None
    longest = sorted(max(draw() for _ in range(n)) for _ in range(4000))
    assert found.expected == pytest.approx(sum(longest) / len(longest), rel=0.05)
    assert found.high == pytest.approx(longest[int(0.95 * len(longest))], rel=0.1)


def test_tasks_differ_and_few_groups_of_a_task_count_little() -> None:
    forecast = LengthForecast()
    for index in range(100):
        forecast.note(prompt(index, task="short"), of_lengths(prompt(index, task="short"), [100, 100]))
        forecast.note(prompt(index, task="long"), of_lengths(prompt(index, task="long"), [1600, 1600]))
    forecast.note(prompt(0, task="rare"), of_lengths(prompt(0, task="rare"), [100, 100]))

    def longest(task: str) -> float:
        found = forecast.longest(prompt(1000, task=task), 2, 10_000)
        assert found is not None
        return found.expected

    assert longest("short") < 200
    assert longest("long") > 1400
    assert longest("short") < longest("rare") < longest("long")


def test_a_prompt_is_foretold_by_its_own_groups_and_by_those_that_were_solved_as_rarely() -> None:
    forecast = LengthForecast()
    for index in range(60):
        for _ in range(3):
            forecast.note(prompt(index), of_lengths(prompt(index), [100, 100], [1.0, 1.0]))
            forecast.note(prompt(500 + index), of_lengths(prompt(500 + index), [900, 900], [0.0, 0.0]))

    def expected(index: int) -> float:
        found = forecast.longest(prompt(index), 2, 10_000)
        assert found is not None
        return found.expected

    assert expected(0) < 170
    assert expected(500) > 700
    assert expected(0) < expected(9_999) < expected(500)


def test_no_completion_is_foretold_longer_than_it_may_be() -> None:
    forecast = LengthForecast()
    forecast.note(prompt(0), of_lengths(prompt(0), [900, 900]))
    found = forecast.longest(prompt(1), 8, 256)
    assert found is not None
    assert (found.expected, found.high) == (256.0, 256.0)

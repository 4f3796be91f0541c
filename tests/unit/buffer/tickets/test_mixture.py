"""Prompts are drawn in a mixture that is deterministic, keeps its weights at every moment, and can be resumed."""

from __future__ import annotations

from collections import Counter

import pytest
from prolong.buffer.tickets.mixture import PromptMixture
from prolong.common.errors import DataError

from tests.support.prompt_source import check_prompt_source

from ..scene import prompt


def mixture(seed: int = 0, weights: tuple[float, ...] = (1.0, 2.0), size: int = 5) -> PromptMixture:
    sources = [([prompt(i, task=f"t{source}") for i in range(size)], weight) for source, weight in enumerate(weights)]
    return PromptMixture(sources, seed)


def draw(source: PromptMixture, count: int) -> list[str]:
    return [source.next().uid for _ in range(count)]


@pytest.mark.parametrize("weights", [[1.0, 2.0], [0.0, 1.0], [1.0, 0.3]])
def test_the_mixture_keeps_the_contract_of_a_prompt_source(weights: list[float]) -> None:
    check_prompt_source(mixture, weights)


def test_the_mixture_is_the_same_for_the_same_seed_and_differs_for_another() -> None:
    assert draw(mixture(3), 60) == draw(mixture(3), 60)
    assert draw(mixture(3), 60) != draw(mixture(4), 60)


def test_every_prompt_is_drawn_once_before_any_is_drawn_twice_and_epochs_differ() -> None:
    source = mixture(weights=(1.0,), size=20)
    first, second = draw(source, 20), draw(source, 20)
    assert sorted(first) == sorted(second)
    assert len(set(first)) == 20
    assert first != second


def test_weights_hold_at_every_moment_not_only_on_average() -> None:
    drawn = draw(mixture(weights=(1.0, 3.0)), 400)
    for end in range(1, 401):
        assert abs(sum(uid.startswith("t0") for uid in drawn[:end]) - end / 4) < 1.0


def test_a_cursor_resumes_the_mixture_exactly() -> None:
    source = mixture(weights=(1.0, 2.5, 0.3))
    draw(source, 37)
    cursor = source.cursor
    expected = draw(source, 50)
    resumed = mixture(weights=(1.0, 2.5, 0.3))
    resumed.restore(cursor)
    assert draw(resumed, 50) == expected
    with pytest.raises(DataError, match=r"recorded with 3 training sources, data\.train lists 2"):
        mixture().restore(cursor)


def test_weights_change_on_the_way_sources_go_on_where_they_stand_and_one_of_weight_0_is_not_drawn() -> None:
    source = mixture(weights=(1.0, 2.0, 0.0), size=6)
    first = draw(source, 5)
    assert not any(uid.startswith("t2") for uid in first)
    source.weigh((1.0, 0.0, 3.0))
    second = draw(source, 10)
    shares = Counter(uid.partition("/")[0] for uid in second)
    assert shares.keys() == {"t0", "t2"}
    assert abs(shares["t2"] - 7.5) < 1.0, "what was owed under the old weights is not paid under the new"
    of_t0 = [uid for uid in first + second if uid.startswith("t0")]
    assert len(set(of_t0)) == len(of_t0), "its first epoch goes on"
    source.weigh((0.0, 1.0, 0.0))
    assert not set(draw(source, 2)) & set(first), "so does that of a source that was left out for a while"


def test_the_mixture_resumes_exactly_across_a_change_of_weights() -> None:
    source = mixture(weights=(1.0, 2.5, 0.0))
    draw(source, 7)
    source.weigh((2.0, 0.0, 0.7))
    draw(source, 4)
    cursor = source.cursor
    source.weigh((2.0, 0.0, 0.7))  # the same again changes nothing
    expected = draw(source, 30)
    resumed = mixture(weights=(1.0, 2.5, 0.0))
    resumed.weigh((2.0, 0.0, 0.7))
    resumed.restore(cursor)
    assert draw(resumed, 30) == expected


@pytest.mark.parametrize("weights", [(1.0,), (0.0, 0.0), (2.0, -1.0)])
def test_weights_that_fit_no_mixture_are_refused(weights: tuple[float, ...]) -> None:
    with pytest.raises(DataError, match="expected one each, some above 0"):
        mixture().weigh(weights)


def test_prompts_are_found_by_uid_and_uids_are_unique_over_all_sources() -> None:
    source = mixture()
    found = source.find("t1/3")
    assert found is not None
    assert found.uid == "t1/3"
    assert source.find("t9/9") is None
    with pytest.raises(DataError, match="same uid"):
        PromptMixture([([prompt(1)], 1.0), ([prompt(1)], 1.0)], 0)
    with pytest.raises(DataError, match="no training prompts"):
        PromptMixture([], 0)

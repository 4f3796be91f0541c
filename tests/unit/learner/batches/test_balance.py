"""Work of an update between ranks that wait for one another, by predicted cost."""

from __future__ import annotations

import numpy as np
import pytest
from prolong.learner.batches.balance import best_fit, even_steps
from prolong.learner.batches.cost import TOKENS, ForwardCost
from prolong.learner.batches.packing import MicroBatch, PackingLayout, Sample, family_cost, pack, rank_imbalance

# of Qwen3-0.6B: 28 layers, 16 heads of 128 dimensions
QWEN = ForwardCost(token=8.8e8, target=3.1e8, attention=((None, 4.0 * 16 * 128 * 28),))


def update_time(steps: list[list[list[int]]], power: int) -> int:
    return sum(max(sum(item**power for item in content) for content in step) for step in steps)


def long_tailed(seed: int, groups: int, n: int, longest: int) -> list[Sample]:
    rng = np.random.default_rng(seed)
    samples = []
    for group in range(groups):
        prompt = np.zeros(int(rng.integers(20, 80)), dtype=np.int32)
        for _ in range(n):
            length = int(np.clip(rng.lognormal(np.log(longest / 20), 1.0), 4, longest))
            samples.append(
                Sample(
                    group=group,
                    prompt=prompt,
                    completion=np.zeros(length, dtype=np.int32),
                    behaviour=np.zeros(length, dtype=np.float32),
                    keep=np.ones(length, dtype=bool),
                    staleness=np.zeros(length, dtype=np.int32),
                    temperature=1.0,
                    reward=0.0,
                    weight=1.0,
                )
            )
    return samples


def test_best_fit_fills_the_fullest_bin_with_room() -> None:
    assert best_fit([3, 7, 5, 2, 5], lambda x: x, 10) == [[7, 3], [5, 5], [2]]
    assert best_fit([30, 1], lambda x: x, 10) == [[30], [1]]


def test_steps_are_no_more_than_needed_and_ranks_have_about_equal_work_in_each() -> None:
    rng = np.random.default_rng(0)
    items = rng.integers(1, 100, 200).tolist()
    steps = even_steps(items, size=lambda x: x, cost=lambda x: x, capacity=500, ranks=4)
    assert sorted(item for step in steps for content in step for item in content) == sorted(items)
    assert all(sum(content) <= 500 for step in steps for content in step)
    assert len(steps) == -(-len(best_fit(items, lambda x: x, 500)) // 4)
    assert update_time(steps, 1) <= 1.01 * sum(items) / 4


def test_an_item_that_dominates_is_met_by_other_ranks_with_more_items() -> None:
    """Costs are squares: next to the item of 60, of cost 3600, each other rank has 36 items of 10."""
    items = [60, *[10] * 72]
    steps = even_steps(items, size=lambda x: x, cost=lambda x: x**2, capacity=400, ranks=3)
    assert update_time(steps, 2) == 3600


def test_long_and_short_documents_cost_ranks_about_the_same_where_equal_tokens_would_not() -> None:
    samples = long_tailed(0, 32, 8, 16_000)
    ratios = {}
    for name, cost in {"tokens": TOKENS, "flops": QWEN}.items():
        ranks = [
            pack(samples, token_budget=24_000, layout=PackingLayout.documents, rank=r, world_size=4, cost=cost)
            for r in range(4)
        ]
        assert len({len(micros) for micros in ranks}) == 1
        assert len({rank_imbalance(micros) for micros in ranks}) == 1
        real = np.array([[micro_flops(micro.position_ids.numpy(), micro) for micro in micros] for micros in ranks])
        ratios[name] = real.max(axis=0).sum() / real.mean(axis=0).sum()
        if cost is QWEN:
            assert rank_imbalance(ranks[0]) == pytest.approx(ratios[name], rel=1e-6)
    assert ratios["flops"] < 1.06
    assert ratios["tokens"] > 1.15


def micro_flops(positions: np.ndarray, micro: MicroBatch) -> float:
    """Written out: every token sees position + 1 tokens; every target meets the head."""
    pair = QWEN.attention[0][1]
    return QWEN.token * positions.size + QWEN.target * len(micro.target) + pair * float((positions + 1).sum())


def test_the_cost_of_a_family_counts_its_prompt_once_and_pairs_within_windows() -> None:
    samples = long_tailed(1, 1, 3, 200)
    prompt = len(samples[0].prompt)
    cost = ForwardCost(token=5.0, target=7.0, attention=((None, 2.0), (10, 3.0)))
    expected = 5.0 * prompt + sum(2.0 * (i + 1) + 3.0 * min(i + 1, 10) for i in range(prompt))
    for sample in samples:
        for i in range(prompt, prompt + len(sample.completion)):
            expected += 5.0 + 7.0 + 2.0 * (i + 1) + 3.0 * min(i + 1, 10)
    assert family_cost(samples, cost) == pytest.approx(expected)


@pytest.mark.parametrize("layout", list(PackingLayout))
def test_one_rank_waits_for_nobody(layout: PackingLayout) -> None:
    assert rank_imbalance(pack(long_tailed(2, 3, 4, 100), token_budget=200, layout=layout, cost=QWEN)) == 1.0


@pytest.mark.parametrize("layout", list(PackingLayout))
def test_a_rank_with_nothing_to_do_is_counted_as_waiting(layout: PackingLayout) -> None:
    micros = pack(long_tailed(3, 1, 1, 50), token_budget=200, layout=layout, rank=1, world_size=2, cost=QWEN)
    assert rank_imbalance(micros) == pytest.approx(2.0)

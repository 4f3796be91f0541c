from dataclasses import replace

import numpy as np
import pytest
import torch
from prolong.learner.batches.packing import MicroBatch, PackingLayout, Sample, pack

Row = tuple[float, ...]


def make_samples(seed: int, groups: int = 5, n: int = 6) -> list[Sample]:
    rng = np.random.default_rng(seed)
    samples = []
    for group in range(groups):
        prompt = rng.integers(0, 1000, rng.integers(1, 12)).astype(np.int32)
        for _ in range(n):
            length = int(rng.integers(1, 30))
            completion = rng.integers(0, 1000, length).astype(np.int32)
            keep = rng.random(length) > 0.2
            behaviour = -rng.random(length).astype(np.float32)
            samples.append(
                Sample(
                    group=group,
                    prompt=prompt,
                    completion=completion,
                    behaviour=behaviour,
                    keep=keep,
                    staleness=rng.integers(0, 4, length).astype(np.int32),
                    temperature=0.5 + 0.1 * group,
                    reward=0.0,
                    advantage=float(rng.normal()),
                    weight=float(rng.random()) + 0.1,
                )
            )
    return samples


def trained_tokens(micros: list[MicroBatch]) -> list[Row]:
    """(target, behaviour, advantage, temperature, staleness, weight) of every token with a loss, sorted."""
    rows = []
    for m in micros:
        columns = m.target, m.behaviour, m.advantage, m.temperature, m.staleness, m.weight
        rows += list(zip(*(column.tolist() for column in columns), strict=True))
    return sorted(row for row in rows if row[-1] > 0)


def expected_tokens(samples: list[Sample]) -> list[Row]:
    return sorted(
        (int(token), float(b), s.advantage, s.temperature, float(age), s.weight)
        for s in samples
        for token, b, age, keep in zip(s.completion, s.behaviour, s.staleness, s.keep, strict=True)
        if keep
    )


@pytest.mark.parametrize("layout", list(PackingLayout))
@pytest.mark.parametrize("budget", [50, 200, 10_000])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_every_kept_token_is_packed_exactly_once_with_its_numbers(layout: PackingLayout, budget: int, world_size: int) -> None:
    samples = make_samples(0)
    ranks = [
        pack(samples, token_budget=budget, layout=layout, rank=r, world_size=world_size, dtype=torch.float64)
        for r in range(world_size)
    ]
    assert trained_tokens([m for rank in ranks for m in rank]) == expected_tokens(samples)
    assert len({len(rank) for rank in ranks}) == 1


@pytest.mark.parametrize("layout", list(PackingLayout))
@pytest.mark.parametrize("budget", [1, 100, 10_000])
def test_every_rollout_is_whole_in_one_micro_batch_and_has_an_index_of_its_own(layout: PackingLayout, budget: int) -> None:
    """Advantages are all different here, so they tell the rollouts apart."""
    samples = make_samples(8)
    found: dict[float, tuple[int, int, int]] = {}
    for at, micro in enumerate(pack(samples, token_budget=budget, layout=layout, dtype=torch.float64)):
        assert micro.rollout.dtype == torch.int64
        for mark in set(micro.advantage.tolist()):
            mine = micro.rollout[micro.advantage == mark]
            assert mark not in found
            assert len(set(mine.tolist())) == 1
            assert 0 <= int(mine[0]) < micro.num_rollouts
            found[mark] = at, int(mine[0]), len(mine)
    kept = [sample for sample in samples if sample.keep.any()]
    assert {mark: size for mark, (_, _, size) in found.items()} == {s.advantage: int(s.keep.sum()) for s in kept}
    assert len({place[:2] for place in found.values()}) == len(kept)


@pytest.mark.parametrize("layout", list(PackingLayout))
def test_the_state_before_each_target_is_its_predictor(layout: PackingLayout) -> None:
    """Walk each document from its first target back to the prompt: tokens and positions must be those of a sample."""
    samples = make_samples(1)
    known = {(tuple(s.prompt), tuple(s.completion)) for s in samples}
    for micro in pack(samples, token_budget=100, layout=layout, dtype=torch.float64):
        tokens, positions = micro.input_ids.flatten(), micro.position_ids.flatten()
        for source, target in zip(micro.source.tolist(), micro.target.tolist(), strict=True):
            matches = [
                (prompt, completion)
                for prompt, completion in known
                for i, token in enumerate(completion)
                if token == target
                and positions[source] == len(prompt) + i - 1
                and tokens[source] == (prompt + completion)[len(prompt) + i - 1]
            ]
            assert matches


@pytest.mark.parametrize("budget", [40, 150])
def test_documents_hold_prompt_and_completion_in_order(budget: int) -> None:
    samples = make_samples(2)
    known = sorted((*s.prompt.tolist(), *s.completion.tolist()) for s in samples)
    found = []
    for micro in pack(samples, token_budget=budget, layout=PackingLayout.documents, dtype=torch.float64):
        assert micro.plan is not None
        row, positions = micro.input_ids[0], micro.position_ids[0]
        take, shapes = micro.plan.take, micro.plan.shapes
        assert torch.equal(take[micro.plan.put], torch.arange(len(row)))
        blocks = [block.view(shape) for block, shape in zip(take.split([n * size for n, size in shapes]), shapes, strict=True)]
        for document in (d for block in blocks for d in block):
            length = int(positions[document].max()) + 1
            assert positions[document[:length]].tolist() == list(range(length))
            assert len(set(document[length - 1 :].tolist())) == 1
            found.append(tuple(row[document[:length]].tolist()))
    assert sorted(found) == known


def test_documents_hold_each_prompt_once_per_micro_batch_and_stay_in_budget() -> None:
    samples = make_samples(3)
    total = sum(len(s.completion) for s in samples) + sum(len(p) for p in {s.group: s.prompt for s in samples}.values())
    (micro,) = pack(samples, token_budget=10_000, layout=PackingLayout.documents)
    assert micro.input_ids.numel() == total
    for micro in pack(samples, token_budget=100, layout=PackingLayout.documents):
        assert micro.input_ids.numel() <= 100


def test_rows_restart_their_positions_at_every_document() -> None:
    for micro in pack(make_samples(4), token_budget=512, layout=PackingLayout.rows):
        steps = micro.position_ids.diff(dim=1)
        assert micro.position_ids[:, 0].eq(0).all()
        assert torch.all((steps == 1) | (micro.position_ids[:, 1:] == 0))


def test_packing_is_a_function_of_its_arguments() -> None:
    left, right = (pack(make_samples(5), token_budget=80, layout=PackingLayout.documents) for _ in range(2))
    assert all(
        torch.equal(a.input_ids, b.input_ids) and torch.equal(a.source, b.source) for a, b in zip(left, right, strict=True)
    )


def test_spare_micro_batches_weigh_nothing() -> None:
    samples = make_samples(6, groups=1, n=1)
    ranks = [pack(samples, token_budget=100, layout=PackingLayout.documents, rank=r, world_size=2) for r in range(2)]
    assert [len(rank) for rank in ranks] == [1, 1]
    assert sorted(float(rank[0].weight.sum() > 0) for rank in ranks) == [0.0, 1.0]


@pytest.mark.parametrize("part", ["prompt", "completion"])
def test_an_empty_prompt_or_completion_is_refused_by_name_of_its_group(part: str) -> None:
    (sample, *_) = make_samples(7)
    with pytest.raises(ValueError, match="group 0: an empty"):
        replace(sample, **{part: getattr(sample, part)[:0]})

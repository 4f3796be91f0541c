"""Triggers of a reference reset: a pure function of the records of the steps."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prolong.common.config.algorithm import ReferenceConfig
from prolong.learner.reset_triggers import Evidence, ResetState, after_reset, decide


def run(cfg: ReferenceConfig, history: list[Evidence]) -> list[tuple[int, str]]:
    """(version, trigger) of every reset in a history."""
    state, fired = ResetState(), []
    for seen in history:
        state, reason = decide(state, seen, cfg)
        if reason:
            fired.append((seen.version, reason))
            state = after_reset(state, seen.version)
    return fired


def steps(
    num_steps: int,
    *,
    kl: Mapping[int, float] | None = None,
    score: Mapping[int, float] | None = None,
    asked: Collection[int] = (),
) -> list[Evidence]:
    """Evidence of versions 1..num_steps; `kl`, `score`, `asked` by version. A score is of the version before."""
    history = []
    for version in range(1, num_steps + 1):
        mean = (score or {}).get(version)
        history.append(
            Evidence(
                version=version,
                kl=(kl or {}).get(version, 0.0),
                score=None if mean is None else (version - 1, mean),
                asked=version in asked,
            )
        )
    return history


def test_nothing_fires_by_default() -> None:
    assert run(ReferenceConfig(), steps(50, kl={9: 5.0}, score=dict.fromkeys(range(1, 50), 0.5))) == []


def test_every_n_steps_counts_from_the_last_reset_of_any_trigger() -> None:
    assert run(ReferenceConfig(reset_every=4), steps(13)) == [(4, "every"), (8, "every"), (12, "every")]
    by_hand = steps(13, asked=[6])
    assert run(ReferenceConfig(reset_every=4), by_hand) == [(4, "every"), (6, "asked"), (10, "every")]


def test_kl_above_its_threshold() -> None:
    history = steps(9, kl={3: 0.1, 5: 0.11, 6: 0.2})
    assert run(ReferenceConfig(kl_above=0.1), history) == [(5, "kl"), (6, "kl")]
    assert run(ReferenceConfig(kl_above=0.1, cooldown=1), history) == [(5, "kl")]


def test_a_plateau_is_so_many_sweeps_in_a_row_without_a_better_score() -> None:
    scores = {1: 0.3, 3: 0.5, 5: 0.5, 7: 0.505, 9: 0.51, 11: 0.6, 13: 0.6}
    assert run(ReferenceConfig(plateau=3, min_delta=0.01), steps(14, score=scores)) == [(9, "plateau")]
    assert run(ReferenceConfig(plateau=3), steps(14, score=scores)) == []
    assert run(ReferenceConfig(plateau=1, min_delta=0.01), steps(6, score=scores)) == [(5, "plateau")]


def test_the_best_score_is_forgotten_at_a_reset_and_older_sweeps_do_not_count() -> None:
    state = after_reset(ResetState(best=0.9, stalled=2, record=0.9, record_version=4), 10)
    cfg = ReferenceConfig(plateau=2)
    state, _ = decide(state, Evidence(version=11, score=(9, 0.1)), cfg)
    assert (state.best, state.stalled) == (None, 0)
    state, _ = decide(state, Evidence(version=12, score=(11, 0.2)), cfg)
    assert (state.best, state.stalled, state.record, state.record_version) == (0.2, 0, 0.9, 4)


def test_a_drop_below_the_best_score() -> None:
    scores = {2: 0.5, 4: 0.6, 6: 0.56, 8: 0.54, 10: 0.3, 12: 0.29}
    assert run(ReferenceConfig(drop=0.05), steps(13, score=scores)) == [(8, "drop")]  # .3 is the first score of its time
    assert run(ReferenceConfig(drop=0.2), steps(13, score=scores)) == [(10, "drop")]


def test_cooldown_silences_every_trigger_but_the_hand() -> None:
    cfg = ReferenceConfig(reset_every=2, kl_above=0.1, cooldown=5)
    history = steps(12, kl=dict.fromkeys(range(1, 13), 1.0), asked=[8])
    assert run(cfg, history) == [(6, "every"), (8, "asked")]


histories = st.lists(st.tuples(st.floats(0, 1), st.none() | st.floats(0, 1), st.booleans()), min_size=1, max_size=60).map(
    lambda rows: [
        Evidence(version=i + 1, kl=kl, score=None if score is None else (i, score), asked=asked and i % 7 == 0)
        for i, (kl, score, asked) in enumerate(rows)
    ]
)
configs = st.builds(
    ReferenceConfig,
    reset_every=st.integers(0, 20),
    kl_above=st.sampled_from([0.0, 0.5, 0.9]),
    plateau=st.integers(0, 4),
    min_delta=st.sampled_from([0.0, 0.1]),
    drop=st.sampled_from([0.0, 0.3]),
    cooldown=st.integers(0, 10),
)


@given(configs, histories, st.data())
def test_a_state_that_went_through_a_checkpoint_decides_the_same(cfg: ReferenceConfig, history: list[Evidence], data) -> None:
    cut = data.draw(st.integers(0, len(history)))
    whole, state, fired = run(cfg, history), ResetState(), []
    for index, seen in enumerate(history):
        if index == cut:
            state = msgspec.json.decode(msgspec.json.encode(state), type=ResetState)
        state, reason = decide(state, seen, cfg)
        if reason:
            fired.append((seen.version, reason))
            state = after_reset(state, seen.version)
    assert fired == whole
    versions = [0, *(version for version, reason in whole)]
    steps_between = zip(itertools.pairwise(versions), whole, strict=True)
    gaps = [after - before for (before, after), (_, reason) in steps_between if reason != "asked"]
    assert all(gap > cfg.cooldown for gap in gaps)


@pytest.mark.parametrize("key", ["reset_every", "kl_above", "plateau", "min_delta", "drop", "cooldown"])
def test_negative_settings_are_refused(key: str) -> None:
    negative: dict[str, Any] = {key: -1}
    with pytest.raises(Exception, match=f"reference.{key} = -1: expected 0 or more"):
        ReferenceConfig(**negative)


def test_a_reset_of_nothing_is_refused() -> None:
    with pytest.raises(Exception, match="a reset must do something"):
        ReferenceConfig(reset_reference=False, reset_optimizer=False)

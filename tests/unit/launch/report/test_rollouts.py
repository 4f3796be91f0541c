"""The rollouts of a report: which are taken, and how a completion is packed for the page."""

from __future__ import annotations

import json
import math
from contextlib import closing
from pathlib import Path

import msgspec
import numpy as np
import pytest
from prolong.buffer.journal.journal import open_journal
from prolong.buffer.journal.records import GROUP, key
from prolong.common.json_object import JsonObject
from prolong.common.tokenizer import Tokenizer
from prolong.common.types import FinishReason, Rollout, Verdict, VerdictStatus, VersionSpan
from prolong.launch.recipes import CONF_FOLDER
from prolong.launch.report.rollouts import ALPHABET, LOGPROB_SCALE, MAX_CHARS, rollout_entry, sample_rollouts, spread

from tests.support.batches import random_batch
from tests.support.recorded_run import record_history

DEMO = str(CONF_FOLDER / "demo")
CODES = {letter: i for i, letter in enumerate(ALPHABET)}


def a_rollout(ids: list[int], logprobs: list[float], spans: list[VersionSpan]) -> Rollout:
    return Rollout(
        token_ids=np.array(ids, dtype="<i4").tobytes(),
        behaviour_logprobs=np.array(logprobs, dtype="<f4").tobytes(),
        spans=spans,
        finish_reason=FinishReason.stop,
        verdict=Verdict(reward=0.5, status=VerdictStatus.ok, verifier="math", seconds=0.1, detail="half", metrics={"x": 1 / 3}),
    )


def spans_of(*ends: int) -> list[VersionSpan]:
    starts = [0, *ends[:-1]]
    return [VersionSpan(version=v, start=start, end=end) for v, (start, end) in enumerate(zip(starts, ends, strict=True))]


def read_sample(folder: Path, budget: int = 1 << 20, models: tuple[str, ...] = (DEMO,)) -> JsonObject:
    return json.loads(sample_rollouts(folder, models, budget).encoded())


def test_a_completion_is_its_text_with_a_length_and_a_probability_for_each_token() -> None:
    pieces = {1: "ab", 2: "ç\U0001f600", 3: "", 4: "x" * 130}
    logprobs = [0.0, -0.5, -2.0, -30.0]
    entry = rollout_entry(a_rollout([1, 2, 3, 4], logprobs, spans_of(1, 4)), lambda ids: [pieces[i] for i in ids])
    assert entry["t"] == "abç\U0001f600" + "x" * 130
    # UTF-16 units: the face takes two; a token that is too long for one letter is several
    assert [CODES[letter] for letter in entry["k"]] == [2, 3, 0, 63, 63, 4]
    shown = [-((CODES[letter] / LOGPROB_SCALE) ** 2) for letter in entry["q"]]
    assert shown[:3] == pytest.approx(logprobs[:3], abs=0.08)
    assert shown[3:] == pytest.approx([-12.25] * 3)
    assert entry["v"] == [[0, 2, 1, ""], [1, 135, 3, ""]]
    assert (entry["n"], entry["w"], entry["s"], entry["f"], entry["d"]) == (4, 0.5, "ok", "stop", "half")
    assert entry["m"] == {"x": 0.3333}


def test_the_middle_of_a_long_completion_is_left_out_and_the_spans_still_end_where_they_should() -> None:
    count = MAX_CHARS
    logprobs = [-0.25] * count
    entry = rollout_entry(
        a_rollout(list(range(count)), logprobs, spans_of(count // 8, count // 2, count)), lambda ids: ["ab"] * len(ids)
    )
    assert len(entry["t"]) == MAX_CHARS
    assert len(entry["k"]) == len(entry["q"]) == MAX_CHARS // 2
    place, left_out = entry["c"]
    assert left_out == count - MAX_CHARS // 2
    assert place == MAX_CHARS * 2 // 3
    # the second span ends inside the part that is left out
    assert [(version, end, tokens) for version, end, tokens, _ in entry["v"]] == [
        (0, count // 4, count // 8),
        (1, place, count // 2 - count // 8),
        (2, MAX_CHARS, count // 2),
    ]


def test_numbers_that_are_not_finite_become_the_least_likely() -> None:
    entry = rollout_entry(a_rollout([1, 1], [math.nan, -math.inf], spans_of(2)), lambda ids: ["a"] * len(ids))
    assert entry["q"] == ALPHABET[-1] * 2


def test_a_number_of_a_verifier_that_is_not_finite_leaves_data_that_a_browser_reads(tmp_path: Path) -> None:
    batch = random_batch()
    group = batch.groups[0]
    first = group.rollouts[0]
    metrics = {"share": math.nan, "seconds": math.inf, "known": 0.5}
    odd = msgspec.structs.replace(first, verdict=msgspec.structs.replace(first.verdict, metrics=metrics))
    batch.groups[0] = msgspec.structs.replace(group, rollouts=[odd, *group.rollouts[1:]])
    record_history(tmp_path, [batch])
    encoded = sample_rollouts(tmp_path, (DEMO,), 1 << 20).encoded()
    # unlike json.loads, it refuses NaN, as JSON.parse does
    shown = msgspec.json.decode(encoded)["groups"][0]["r"][0]["m"]
    assert shown == {"share": None, "seconds": None, "known": 0.5}


@pytest.mark.parametrize("count", [1, 2, 3, 7, 8, 1000])
def test_spread_is_a_permutation_of_which_every_beginning_is_even(count: int) -> None:
    order = list(spread(count))
    assert sorted(order) == list(range(count))
    taken = sorted(order[: count // 4])
    gaps = np.diff([-1, *taken, count])
    assert gaps.max() <= 16


def test_all_groups_are_taken_where_there_is_room_in_the_order_of_their_steps(tmp_path: Path) -> None:
    record_history(tmp_path, [random_batch(version) for version in range(3)])
    sample = read_sample(tmp_path)
    assert [group["s"] for group in sample["groups"]] == [1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert (sample["rollouts"], sample["kept_groups"], sample["first_step"], sample["last_step"]) == (36, 9, 1, 3)
    rollout = random_batch(1).groups[0].rollouts[0]
    shown = sample["groups"][3]["r"][0]
    assert shown["w"] == pytest.approx(rollout.verdict.reward)
    assert shown["t"] == Tokenizer.load(DEMO).decode(np.frombuffer(rollout.token_ids, "<i4"))
    assert sample["prompts"][sample["groups"][3]["p"]]["u"] == "0"


def test_a_budget_takes_groups_from_the_whole_run(tmp_path: Path) -> None:
    record_history(tmp_path, [random_batch(version) for version in range(32)])
    everything = sample_rollouts(tmp_path, [DEMO], 1 << 20)
    budget = sum(map(len, everything.groups)) // 4
    some = sample_rollouts(tmp_path, [DEMO], budget)
    assert sum(map(len, some.groups)) <= budget
    steps = [json.loads(group)["s"] for group in some.groups]
    assert 16 <= len(steps) <= 32
    assert (min(steps), max(steps)) <= (2, 32)
    assert max(np.diff(steps)) <= 3


def test_a_run_without_tokenizer_shows_numbers_and_says_why(tmp_path: Path) -> None:
    record_history(tmp_path, [random_batch()])
    sample = read_sample(tmp_path, models=(str(tmp_path),))
    ids = np.frombuffer(random_batch().groups[0].rollouts[0].token_ids, "<i4")
    assert sample["groups"][0]["r"][0]["t"].split() == [str(i) for i in ids]
    assert "tokenizer.json" in sample["as_ids"]


def test_a_run_without_journal_says_what_is_missing(tmp_path: Path) -> None:
    assert "buffer.journal_gb=0" in read_sample(tmp_path)["why_none"]
    record_history(tmp_path / "empty", [])
    with closing(open_journal(tmp_path / "empty", max_gb=1.0, keep_history=True)):
        pass
    assert read_sample(tmp_path / "empty")["groups"] == []


def test_a_group_that_a_live_run_has_dropped_is_counted(tmp_path: Path) -> None:
    batch = random_batch()
    record_history(tmp_path, [batch])
    with closing(open_journal(tmp_path, max_gb=1.0, keep_history=True)) as journal:
        newest = journal.load_state()
        assert newest is not None
        journal.drop(key(GROUP, batch.groups[1].ordinal))
        journal.commit(newest)
    sample = read_sample(tmp_path)
    assert [group["o"] for group in sample["groups"]] == [batch.groups[0].ordinal, batch.groups[2].ordinal]
    assert (sample["kept_groups"], sample["unreadable"]) == (3, 1)


def test_another_generation_is_found_at_its_first_step(tmp_path: Path) -> None:
    batches = [random_batch(version) for version in range(4)]
    batches[2:] = [msgspec.structs.replace(batch, generation=2) for batch in batches[2:]]
    record_history(tmp_path, batches)
    assert sample_rollouts(tmp_path, [DEMO], 1 << 20).generations == [(1, 1), (3, 2)]

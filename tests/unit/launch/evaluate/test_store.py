"""What an evaluation has on the disk: it goes on where it was, and never mixes rollouts of two evaluations."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from prolong.common.errors import UserError
from prolong.common.types import FinishReason, Group, Prompt, Rollout, Ticket, Verdict, VerdictStatus, VersionSpan
from prolong.launch.evaluate.store import Asked, EvaluationStore, digest_of

IDS = np.arange(3, dtype="<i4").tobytes()
PROMPTS = [
    Prompt(uid=f"p{index}", domain="math", task="sum", text="2+3?", token_ids=IDS, verifier="math", answer='{"answer": "5"}')
    for index in range(3)
]
ASKED = Asked(
    weights="w",
    prompts=digest_of(PROMPTS),
    temperature=0.6,
    top_p=0.95,
    top_k=0,
    min_p=0.0,
    max_tokens=9,
    stop=[],
    seed=0,
    context=32,
    dtype="float32",
    engine="transformers",
)


def group_of(ticket: Ticket) -> Group:
    verdict = Verdict(reward=float(ticket.ordinal % 2), status=VerdictStatus.ok, verifier="math", seconds=0.0)
    spans = [VersionSpan(version=0, start=0, end=3)]
    rollout = Rollout(token_ids=IDS, behaviour_logprobs=IDS, spans=spans, finish_reason=FinishReason.stop, verdict=verdict)
    return Group.for_ticket(ticket, [rollout], actor="a", seconds=0.0)


def opened(folder: Path, n: int = 2, asked: Asked = ASKED) -> closing[EvaluationStore]:
    return closing(EvaluationStore(folder, asked, PROMPTS, n))


def test_every_prompt_has_its_first_rollout_before_any_has_its_second(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        tickets = list(store.missing())
    assert [ticket.prompt.uid for ticket in tickets] == ["p0", "p1", "p2"] * 2
    assert len({ticket.seed for ticket in tickets}) == 6
    assert all(ticket.sampling.n == 1 for ticket in tickets)


def test_what_was_recorded_is_not_sampled_again_and_more_rollouts_keep_it(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        first = list(store.missing())
        for ticket in (first[0], first[4]):
            store.add(group_of(ticket))
    with opened(tmp_path, n=3) as store:
        assert [ticket.ordinal for ticket in store.missing()] == [1, 2, 3, 5, 6, 7, 8]
        assert (store.num_missing, store.num_asked) == (7, 9)
        assert next(ticket.seed for ticket in store.missing()) == first[1].seed
        assert [[group.ordinal for group in store.groups_of(index)] for index in range(3)] == [[0], [4], []]
        for ticket in list(store.missing()):
            store.add(group_of(ticket))
    with opened(tmp_path, n=1) as store:
        assert store.num_missing == 0
        assert [group.ordinal for group in store.groups_of(1)] == [1]


def test_processes_that_sample_parts_fill_one_evaluation(tmp_path: Path) -> None:
    for index in range(2):
        with closing(EvaluationStore(tmp_path, ASKED, PROMPTS, 2, (index, 2))) as store:
            assert (store.num_missing, store.num_asked) == (3, 3)
            for ticket in list(store.missing()):
                store.add(group_of(ticket))
    with opened(tmp_path, n=3) as store:
        assert [ticket.ordinal for ticket in store.missing()] == [6, 7, 8]
        assert [[group.ordinal for group in store.groups_of(index)] for index in range(3)] == [[0, 3], [1, 4], [2, 5]]
    with closing(EvaluationStore(tmp_path, ASKED, PROMPTS, 3, (0, 2))) as store:
        assert [ticket.ordinal for ticket in store.missing()] == [6, 8]


@pytest.mark.parametrize(("name", "value"), [("weights", "other"), ("temperature", 1.0), ("prompts", "other"), ("seed", 1)])
def test_rollouts_of_another_evaluation_are_refused(tmp_path: Path, name: str, value: object) -> None:
    with opened(tmp_path):
        pass
    with pytest.raises(UserError, match=rf"{name} was .*, now it is {value!r}; give another --out"):
        EvaluationStore(tmp_path, replace(ASKED, **{name: value}), PROMPTS, 2)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("text", ["{", "[]", "3", '["ab", 1]'])
def test_a_record_of_what_was_asked_that_says_nothing_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "asked.json").write_text(text)
    with pytest.raises(UserError, match=r"asked\.json does not say|holds rollouts of another evaluation"):
        EvaluationStore(tmp_path, ASKED, PROMPTS, 2)


def test_the_digest_of_prompts_tells_another_answer() -> None:
    changed = [
        *PROMPTS[:2],
        msgspec.structs.replace(PROMPTS[2], answer="{}"),
    ]
    assert digest_of(changed) != digest_of(PROMPTS)

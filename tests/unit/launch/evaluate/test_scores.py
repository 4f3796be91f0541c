"""From rollouts to scores: what counts as right, what counts as an answer, and which scope has which mean."""

from __future__ import annotations

import numpy as np
import pytest
from prolong.common.types import (
    FinishReason,
    Group,
    Prompt,
    Rollout,
    Sampling,
    TicketKind,
    ValidationSetting,
    Verdict,
    VerdictStatus,
    VersionSpan,
)
from prolong.launch.evaluate.results import Evaluated, scopes_of
from prolong.launch.evaluate.scores import OVERALL, PromptOutcome, differences_of, outcome_of, scope_scores
from prolong.launch.evaluate.votes import vote_of


def prompt(verifier: str = "math", text: str = "2+3?") -> Prompt:
    ids = np.arange(3, dtype="<i4").tobytes()
    return Prompt(uid="a", domain="math", task="sum", text=text, token_ids=ids, verifier=verifier, answer='{"answer": "5"}')


def group(text: str, reward: float, *, reason: FinishReason = FinishReason.stop, dropped: int = 0) -> Group:
    """A group of one rollout, whose text is hidden in its token ids."""
    ids = np.frombuffer(text.encode("utf-32-le"), "<i4").tobytes()
    verdict = Verdict(reward=reward, status=VerdictStatus.ok, verifier="math", seconds=0.0)
    spans = [VersionSpan(version=0, start=0, end=len(text))]
    rollout = Rollout(token_ids=ids, behaviour_logprobs=ids, spans=spans, finish_reason=reason, verdict=verdict)
    return Group(
        ordinal=0,
        kind=TicketKind.validation,
        generation=1,
        prompt=prompt(),
        setting=ValidationSetting.sampled,
        sampling=Sampling(n=1, temperature=1.0, top_p=1.0, max_tokens=9),
        rollouts=[rollout] if not dropped else [],
        actor="a",
        seconds=0.0,
        dropped_rollouts=dropped,
    )


def decode(rollout: Rollout) -> str:
    return bytes(rollout.token_ids).decode("utf-32-le")


def outcome(uid: str, task: str, *rewards: float) -> PromptOutcome:
    return PromptOutcome(uid=uid, domain=task.partition("/")[0], task=task, rewards=rewards)


def by_uid(*outcomes: PromptOutcome) -> dict[str, PromptOutcome]:
    return {each.uid: each for each in outcomes}


def test_an_outcome_counts_rewards_votes_lengths_and_what_was_lost() -> None:
    groups = [
        group("\\boxed{5}", 1.0),
        group("5 it is: \\boxed{ 5.0 }", 1.0),
        group("\\boxed{6}", 0.0),
        group("\\boxed{6 }", 0.0),
        group("\\boxed{7}", 0.0),
        group("no idea", 0.0, reason=FinishReason.length),
        group("", 0.0, dropped=1),
    ]
    found = outcome_of(prompt(), groups, decode)
    assert found is not None
    assert found.rewards == (1.0, 1.0, 0.0, 0.0, 0.0, 0.0)
    assert found.votes == {"": 2, "6": 2, "7": 1}
    assert (found.cut_off, found.unjudged, found.correct) == (1, 1, 2)
    assert found.maj_at(6) == 0.5
    assert found.pass_at(1) == pytest.approx(1 / 3)


def test_a_prompt_without_any_reward_has_no_outcome() -> None:
    assert outcome_of(prompt(), [group("", 0.0, dropped=1)], decode) is None


def test_nobody_votes_on_programs() -> None:
    found = outcome_of(prompt("code"), [group("\\boxed{5}", 1.0)], decode)
    assert found is not None
    assert found.votes is None


def test_a_part_of_the_reward_is_not_right() -> None:
    half = outcome("a", "code/mbpp", 0.5, 1.0)
    assert (half.mean_reward, half.correct) == (0.75, 1)


@pytest.mark.parametrize(
    ("text", "verifier", "vote"),
    [
        ("<think>\\boxed{1}</think> \\boxed{2}", "math", "2"),
        ("<answer> 7 </answer>", "reasoning_gym", "7"),
        ("it is 12", "number", "12"),
        ("it is 12", "math", None),
        ("\\boxed{" + "9" * 3000 + "}", "math", None),
    ],
)
def test_the_vote_is_the_answer_that_the_verifier_looks_at(text: str, verifier: str, vote: str | None) -> None:
    assert vote_of(prompt(verifier), text, cut_off=False) == vote


def test_a_completion_that_was_cut_off_has_no_last_number() -> None:
    assert vote_of(prompt("number"), "it is 12", cut_off=True) is None


def test_thinking_that_the_prompt_opened_and_nobody_closed_is_no_answer() -> None:
    assert vote_of(prompt(text="2+3? <think>\n"), "\\boxed{6}", cut_off=False) is None


def test_every_task_of_a_domain_counts_the_same() -> None:
    found = scope_scores(
        by_uid(
            outcome("a", "math/x", 1.0, 1.0),
            outcome("b", "math/y", 0.0, 0.0),
            outcome("c", "math/y", 0.0, 1.0),
            outcome("d", "code/z", 1.0, 1.0),
        ),
        [1, 2],
    )
    values = {score.scope: score.reward.value for score in found}
    assert values == {"code": 1.0, "math": pytest.approx(0.625), "math/x": 1.0, "math/y": 0.25, OVERALL: pytest.approx(0.75)}
    assert found[3].pass_at[2].value == 0.5


def test_a_prompt_that_lost_rollouts_has_no_part_in_a_k_that_it_has_too_few_for() -> None:
    (found,) = scope_scores(by_uid(outcome("a", "math/x", 1.0, 1.0), outcome("b", "math/x", 0.0)), [1, 2])
    assert {k: each.value for k, each in found.pass_at.items()} == {1: 0.5, 2: 1.0}


def test_models_are_compared_on_the_prompts_that_both_have() -> None:
    first = by_uid(outcome("a", "math/x", 0.0, 1.0), outcome("b", "math/x", 0.0, 0.0))
    second = by_uid(outcome("a", "math/x", 1.0, 1.0))
    assert differences_of(first, second)["math"].value == 0.5
    one = Evaluated.of("one", None, first, [1], first, num_rollouts=4)
    two = Evaluated.of("two", 5, second, [1], first, num_rollouts=4)
    results = [one, two]
    assert [each.unjudged for each in results] == [0, 2]
    assert results[0].differences == {}
    assert scopes_of(results) == ["math"]

"""Groups that cannot be used: each is failed with its reason and counted by kind, and its prompt issued again."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
import pytest
from prolong.buffer.tickets.group_checks import group_defect
from prolong.common import messages as m
from prolong.common.config.sections import ValidationConfig
from prolong.common.types import Verdict, VerdictStatus, VersionSpan

from ..scene import Scene, config, group, only, rollout, tickets


def floats(*values: float) -> bytes:
    return np.array(values, "<f4").tobytes()


def span(version: int, start: int, end: int) -> VersionSpan:
    return VersionSpan(version=version, start=start, end=end)


def verdict(**changes: Any) -> Verdict:
    return msgspec.structs.replace(Verdict(reward=1.0, status=VerdictStatus.ok, verifier="m", seconds=0.0), **changes)


FLAWS = [
    ("nonfinite", {"behaviour_logprobs": floats(0, math.nan, 0, 0)}, "a log-probability that is not finite"),
    ("nonfinite", {"behaviour_logprobs": floats(0, -math.inf, 0, 0)}, "a log-probability that is not finite"),
    ("nonfinite", {"verdict": Verdict(reward=math.nan, status=VerdictStatus.ok, verifier="m", seconds=0)}, "reward nan"),
    ("nonfinite", {"verdict": Verdict(reward=-math.inf, status=VerdictStatus.ok, verifier="m", seconds=0)}, "reward -inf"),
    ("nonfinite", {"verdict": Verdict(reward=1e308, status=VerdictStatus.ok, verifier="m", seconds=0)}, "at most 1e+18"),
    ("positive", {"behaviour_logprobs": floats(-1, 0.002, -1, -1)}, "a log-probability of 0.002, expected at most 0"),
    ("malformed", {"token_ids": b""}, "token ids of 0 bytes"),
    ("malformed", {"token_ids": b"12345"}, "multiple of 4"),
    ("malformed", {"token_ids": np.array([1, -2, 3, 4], "<i4").tobytes()}, "negative token id"),
    ("malformed", {"behaviour_logprobs": floats(0, 0)}, "8 bytes of log-probabilities for 4 tokens"),
    ("malformed", {"spans": []}, "cover [0, 0), expected [0, 4)"),
    ("malformed", {"spans": [span(0, 0, 2)]}, "cover [0, 2)"),
    ("malformed", {"spans": [span(0, 0, 5)]}, "cover [0, 5)"),
    ("malformed", {"spans": [span(0, 1, 4)]}, "no gap and no overlap"),
    ("malformed", {"spans": [span(0, 0, 2), span(0, 1, 4)]}, "no gap and no overlap"),
    ("malformed", {"spans": [span(0, 0, 0), span(0, 0, 4)]}, "no gap and no overlap"),
    ("malformed", {"token_ids": b"\0" * 260, "behaviour_logprobs": b"\0" * 260}, "65 tokens, at most 64 were asked for"),
    (
        "nonfinite",
        {"verdict": Verdict(reward=1.0, status=VerdictStatus.ok, verifier="m", seconds=math.nan)},
        "after nan seconds",
    ),
    ("oversized", {"verdict": verdict(detail="x" * 10_001)}, "a detail of 10001 characters"),
    ("oversized", {"verdict": verdict(status="x" * 257)}, "a name of 257 characters"),
    ("oversized", {"verdict": verdict(verifier="x" * 257)}, "a name of 257 characters"),
    ("oversized", {"verdict": verdict(metrics={"x" * 257: 0.0})}, "a name of 257 characters"),
    ("oversized", {"verdict": verdict(metrics={str(n): 0.0 for n in range(257)})}, "257 metrics"),
    ("unrewarded", {"verdict": Verdict(reward=None, status=VerdictStatus.crash, verifier="m", seconds=0)}, "no reward"),
    ("versions", {"spans": [span(1, 0, 4)]}, "versions 0..1 are not in 0..0"),
]


def started(**settings: Any) -> tuple[Scene, list]:
    scene = Scene(config(**settings), heldout=1 if "validation" in settings else 0)
    scene.actor()
    scene.learner()
    return scene, scene.weights(0)


@pytest.mark.parametrize(("kind", "changes", "said"), FLAWS)
def test_a_flawed_rollout_fails_its_group_by_name(kind: str, changes: dict[str, Any], said: str) -> None:
    scene, (ticket, *_) = started()
    broken = msgspec.structs.replace(rollout(0), **changes)
    heard = scene.say("actor-0", m.GroupResult(group=group(ticket, rollout(0, reward=0.0), broken)))
    ack = only(heard, m.GroupAck)
    assert ack.accepted, "the actor need not send it again"
    assert ack.reason.startswith("failed: ")
    assert said in ack.reason
    assert scene.core.run.counters.total[f"buffer/flawed_{kind}"] == 1
    assert scene.core.run.counters.total["buffer/failed_groups"] == 1
    assert [again.prompt for again in tickets(heard)] == [ticket.prompt]
    assert scene.counts == {"leased": 4, "failed": 1, "total": 5}


def beyond(largest: int) -> Any:
    return msgspec.structs.replace(rollout(0), token_ids=np.array([3, largest, 0, 1], "<i4").tobytes())


def test_a_token_id_that_the_model_lacks_fails_the_group_in_training_and_in_validation() -> None:
    """The learner would look for a row that its embedding does not have; the last id that there is, is fine."""
    for validation in (ValidationConfig(), ValidationConfig(greedy=False, n=2, max_tokens=64)):
        scene = Scene(config(validation=validation), heldout=int(not validation.greedy), model_ids=64)
        scene.actor()
        scene.learner()
        ticket = scene.weights(0)[0]
        heard = scene.say("actor-0", m.GroupResult(group=group(ticket, rollout(0, reward=0.0), beyond(64))))
        ack = only(heard, m.GroupAck)
        assert ack.reason == "failed: rollout 1: token id 64, the model knows ids below 64 only"
        assert scene.core.run.counters.total["buffer/flawed_vocabulary"] == 1
        (again,) = tickets(heard)
        assert again.prompt == ticket.prompt
        fine = scene.say("actor-0", m.GroupResult(group=group(again, rollout(0, reward=0.0), beyond(63))))
        assert only(fine, m.GroupAck).reason == ""


def test_rounding_above_0_is_no_flaw() -> None:
    scene, (ticket, *_) = started()
    rounded = msgspec.structs.replace(rollout(0), behaviour_logprobs=floats(5e-4, 0, -1e30, -3))
    assert group_defect(group(ticket, rounded, rollout(0)), None) is None
    ack = only(scene.say("actor-0", m.GroupResult(group=group(ticket, rounded, rollout(0, reward=0.0)))), m.GroupAck)
    assert (ack.accepted, ack.reason) == (True, "")


def test_more_rollouts_than_asked_for_and_fewer_than_two_are_flaws() -> None:
    scene, (first, second, *_) = started()
    many = only(scene.say("actor-0", m.GroupResult(group=group(first, *[rollout(0)] * 3))), m.GroupAck)
    few = only(scene.say("actor-0", m.GroupResult(group=group(second, rollout(0)))), m.GroupAck)
    assert "3 rollouts, 2 were asked for" in many.reason
    assert "1 rollouts are left, a group needs 2" in few.reason
    assert scene.core.run.counters.total["buffer/flawed_few"] == 1


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"dropped_rollouts": 1}, "malformed"),
        ({"dropped_rollouts": -1}, "malformed"),
        ({"actor": "x" * 257}, "oversized"),
        ({"setting": "x" * 257}, "oversized"),
    ],
)
def test_a_group_that_says_more_than_its_ticket_allows_is_flawed(changes: dict[str, Any], kind: str) -> None:
    _, (ticket, *_) = started()
    sound = group(ticket, rollout(0), rollout(0))
    assert group_defect(sound, None) is None
    defect = group_defect(msgspec.structs.replace(sound, **changes), None)
    assert defect is not None
    assert defect.kind == kind


def test_the_most_that_a_verdict_may_say_is_no_flaw() -> None:
    _, (ticket, *_) = started()
    most = verdict(detail="x" * 10_000, status="y" * 256, verifier="z" * 256, metrics={f"{n:0256}": 0.0 for n in range(256)})
    assert group_defect(group(ticket, msgspec.structs.replace(rollout(0), verdict=most), rollout(0)), None) is None


@pytest.mark.parametrize("seconds", [math.inf, math.nan, 1e308])
def test_a_time_that_is_no_number_or_of_which_sums_overflow_is_a_flaw(seconds: float) -> None:
    _, (ticket, *_) = started()
    defect = group_defect(msgspec.structs.replace(group(ticket, rollout(0), rollout(0)), seconds=seconds), None)
    assert defect is not None
    assert defect.kind == "nonfinite"


def test_a_flawed_validation_group_is_asked_again() -> None:
    scene, (ticket,) = started(validation=ValidationConfig(greedy=False, n=2, max_tokens=64))
    broken = msgspec.structs.replace(rollout(0), behaviour_logprobs=floats(0, math.nan, 0, 0))
    heard = scene.say("actor-0", m.GroupResult(group=group(ticket, rollout(0), broken)))
    assert "failed: rollout 1: a log-probability that is not finite" in only(heard, m.GroupAck).reason
    assert [again.prompt for again in tickets(heard)] == [ticket.prompt]


def test_a_group_that_is_not_as_its_ticket_says_is_refused_and_its_prompt_is_issued_again() -> None:
    scene, work = started()
    wrong = (
        ({"prompt": msgspec.structs.replace(work[0].prompt, token_ids=b"\1\0\0\0")}, "has prompt Prompt"),
        ({"sampling": msgspec.structs.replace(work[1].sampling, temperature=0.5)}, "temperature=0.5"),
        ({"setting": "greedy"}, "has setting , the group says greedy"),
        ({"actor": "actor-9"}, "of actor actor-9, actor-0 sent it"),
    )
    assert len(work) == len(wrong)
    for ticket, (changes, said) in zip(work, wrong, strict=True):
        sound = group(ticket, rollout(0), rollout(0, reward=0.0))
        heard = scene.say("actor-0", m.GroupResult(group=msgspec.structs.replace(sound, **changes)))
        ack = only(heard, m.GroupAck)
        assert not ack.accepted
        assert said in ack.reason
        assert [again.prompt for again in tickets(heard)] == [ticket.prompt]
        assert not only(scene.say("actor-0", m.GroupResult(group=sound)), m.GroupAck).accepted, "too late"
    assert scene.core.run.counters.total["buffer/mismatched_groups"] == 4
    assert scene.counts == {"leased": 4, "failed": 4, "total": 8}


def test_a_group_for_somebody_elses_ticket_costs_its_holder_nothing() -> None:
    scene, (ticket, *_) = started()
    scene.actor("actor-1")
    sound = group(ticket, rollout(0), rollout(0, reward=0.0))
    ack = only(scene.say("actor-1", m.GroupResult(group=msgspec.structs.replace(sound, actor="actor-1"))), m.GroupAck)
    assert "was given to actor-0" in ack.reason
    assert only(scene.say("actor-0", m.GroupResult(group=sound)), m.GroupAck).accepted

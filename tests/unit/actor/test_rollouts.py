"""The part of a completion that the verifier reads."""

from __future__ import annotations

import numpy as np
from prolong.actor.engines.completion import Completion
from prolong.actor.rollouts import answer_ids
from prolong.common.types import FinishReason


def completion(ids: list[int], reason: FinishReason) -> Completion:
    return Completion(token_ids=np.array(ids, "<i4").tobytes(), behaviour_logprobs=b"", spans=[], finish_reason=reason)


def test_the_token_that_ended_a_rollout_is_not_shown_to_the_verifier():
    assert answer_ids(completion([5, 6, 1], FinishReason.stop), [1, 2]) == [5, 6]


def test_only_the_last_stop_token_of_a_finished_rollout_is_cut():
    assert answer_ids(completion([5, 1, 1], FinishReason.stop), [1]) == [5, 1]
    assert answer_ids(completion([5, 6, 1], FinishReason.length), [1]) == [5, 6, 1]
    assert answer_ids(completion([5, 6], FinishReason.stop), [1]) == [5, 6]

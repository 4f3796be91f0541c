"""A verifier that takes as long as its prompt's answer says; `starved.py` names it in `verifiers.own`."""

from __future__ import annotations

import time
from collections.abc import Mapping


def judge_slowly(completion: str, answer: Mapping[str, object]) -> float:
    """1 for a completion that begins with an a, after `answer["seconds"]`."""
    seconds = answer["seconds"]
    assert isinstance(seconds, int | float)
    # the worker process is all that sleeps, as one that computes would
    time.sleep(seconds)
    return float(completion.startswith("a"))

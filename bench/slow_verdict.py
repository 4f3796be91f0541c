"""A verifier that takes as long as its prompt's answer says; `starved.py` names it in `verifiers.own`."""

from __future__ import annotations

import threading
from collections.abc import Mapping


def judge_slowly(completion: str, answer: Mapping[str, object]) -> float:
    """1 for a completion that begins with an a, after `answer["seconds"]` in which its worker does nothing else."""
    seconds = answer["seconds"]
    assert isinstance(seconds, int | float)
    threading.Event().wait(seconds)
    return float(completion.startswith("a"))

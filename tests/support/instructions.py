"""The reward of a text for instructions, judged by the quick path where there is one."""

from prolong.common.json_object import JsonObject
from prolong.verifiers.api import Task
from prolong.verifiers.instructions.verifier import INSTRUCTIONS


def reward(text: str, *asked: tuple[str, object], **spec: object) -> float:
    """Of (id, kwargs) pairs; `spec` are further keys of the answer."""
    answer: JsonObject = {"instructions": [{"id": name, "kwargs": kwargs} for name, kwargs in asked]} | spec
    INSTRUCTIONS.check(answer)
    task = Task(completion=text, answer=answer)
    decided = INSTRUCTIONS.quick(task) or INSTRUCTIONS.score(task)
    assert decided == INSTRUCTIONS.score(task)
    return decided.reward


def follows(text: str, name: str, kwargs: object = None, *, strict: bool = True) -> bool:
    return reward(text, (name, kwargs), strict=strict) == 1.0

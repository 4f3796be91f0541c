"""The duties of every registered verifier, and the error of a class that forgets one."""

import inspect

import pytest
from prolong.verifiers.api import Answer, Score, Task, Verifier
from prolong.verifiers.registry import VERIFIERS


class Forgetful(Verifier):
    def check(self, answer: Answer) -> None:
        """Accepts every answer."""

    def score(self, task: Task) -> Score:
        return Score(reward=1.0)


def test_a_verifier_without_a_gold_cannot_be_made():
    with pytest.raises(TypeError, match="gold"):
        Forgetful()  # pyright: ignore[reportAbstractUsage]


@pytest.mark.parametrize("name", VERIFIERS)
def test_a_registered_verifier_has_a_sentence_for_the_pages(name: str):
    sentence, *_ = (inspect.getdoc(type(VERIFIERS[name])) or "").splitlines()
    assert sentence.endswith(".")
    assert "A judge of completions" not in sentence, "inherited from Verifier"


def test_the_defaults_promise_nothing():
    class Plain(Forgetful):
        def gold(self, answer: Answer) -> str | None:
            return None

    plain = Plain()
    assert plain.quick(Task(completion="x", answer={})) is None
    assert not plain.probe({}), "a failure gives no reward"
    assert not plain.needs_sandbox({})
    assert not plain.eager

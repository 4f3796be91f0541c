"""Completions that obey a prompt, and wrong ones: the right one earns 1 from the verifier, the wrong one does not."""

import pytest
from prolong.common.json_object import JsonObject
from prolong.verifiers.api import Task
from prolong.verifiers.data.proofs import READS, attempts
from prolong.verifiers.data.requests import Form
from prolong.verifiers.registry import VERIFIERS, find

HASHES, TAGS = 'How many? Output the answer after "####".', "Who? Put it in <answer> </answer>."
CASES: list[tuple[str, str, JsonObject, str, Form | None]] = [
    ("How many?", "math", {"answer": "42"}, "\\boxed{42}", None),
    ("How many? Put the answer in \\boxed{}.", "math", {"answer": "\\frac{1}{2}"}, "\\boxed{\\frac{1}{2}}", Form.box),
    (HASHES, "number", {"answer": "42"}, "#### 42", Form.hashes),
    ("Which? End with a line of the form Answer: $X.", "number", {"answer": "-3"}, "Answer: -3", Form.line),
    ("Put the answer in <answer> tags, in a \\boxed{}.", "math", {"answer": "7"}, "<answer>\\boxed{7}</answer>", Form.tags),
    (TAGS, "stem", {"answer": "newton"}, "<answer>newton</answer>", Form.tags),
    ("How far?", "stem", {"answer": "4.9", "unit": "m"}, "\\boxed{4.9\\ \\text{m}}", None),
    ("Which?", "stem", {"answer": "B", "choices": {"A": "one", "B": "two"}}, "\\boxed{B}", None),
    ("Is it?", "stem", {"answer": "False", "aliases": ["No"]}, "\\boxed{False}", None),
    (TAGS, "json", {"value": [[1, 0], [0, 1]]}, "<answer>[[1, 0], [0, 1]]</answer>", Form.tags),
    ("Where? Output the answer in \\boxed{}.", "json", {"value": "abc"}, "\\boxed{abc}", Form.box),
]


def earned(verifier: str, answer: JsonObject, completion: str) -> float:
    judge, task = find(verifier), Task(completion=completion, answer=answer)
    judge.check(answer)
    judge.load()
    return (judge.quick(task) or judge.score(task)).reward


@pytest.mark.parametrize(("prompt", "verifier", "answer", "right", "form"), CASES)
def test_the_answer_stands_in_the_form_that_the_prompt_asks_for(
    prompt: str, verifier: str, answer: JsonObject, right: str, form: Form | None
) -> None:
    tried = attempts(prompt, verifier, answer, find(verifier).gold(answer))
    assert (tried.right, tried.form) == ((right,), form)
    assert earned(verifier, answer, right) == 1.0
    assert earned(verifier, answer, tried.wrong) == 0.0


@pytest.mark.parametrize(
    "stored", ["0", "-17", "17", "1/3", "0.5", "50\\%", "x+1", "(1,2)", "[0,1)", "\\pi", "A", "yes", "neon"]
)
def test_the_wrong_answer_is_wrong_for_every_kind_of_stored_one(stored: str) -> None:
    for verifier in ("math", "stem"):
        tried = attempts("?", verifier, {"answer": stored}, find(verifier).gold({"answer": stored}))
        assert earned(verifier, {"answer": stored}, tried.wrong) == 0.0


def test_instructions_are_proved_by_texts_of_their_own() -> None:
    answer = {"instructions": [{"id": "punctuation:no_comma", "kwargs": {}}]}
    tried = attempts("No commas. Put it in a \\boxed{}.", "instructions", answer, find("instructions").gold(answer))
    assert earned("instructions", answer, tried.right[0]) == 1.0
    assert earned("instructions", answer, tried.wrong) == 0.0


def test_a_form_that_the_verifier_does_not_read_earns_nothing() -> None:
    tried = attempts(HASHES, "math", {"answer": "42"}, "\\boxed{42}")
    assert tried.right == ("#### 42",)
    assert earned("math", {"answer": "42"}, "#### 42") == 0.0


def test_what_tells_no_right_completion_says_so() -> None:
    assert attempts("?", "instructions", {"instructions": []}, None).why.startswith("no text that follows")
    assert attempts("?", "code", {"tests": []}, None).why == "no reference solution in the record"
    assert attempts("?", "code", {"language": "cpp"}, None, ("a",)).right == ("a",)
    assert "main" in attempts("?", "code", {"language": "cpp"}, None).wrong


def test_the_forms_are_those_of_verifiers_that_exist() -> None:
    assert set(READS) <= set(VERIFIERS)

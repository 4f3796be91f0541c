"""The thread that owns the model: a full batch, loads that do not fit, and its death."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from prolong.actor.engines.transformers.batch import Row, RunningBatch
from prolong.actor.engines.transformers.thread import GenerationThread
from prolong.common.errors import ProlongError
from transformers import AutoModelForCausalLM, PreTrainedModel

from tests.support.tiny_model import make_tiny_model

SOON_S = 60.0


class Case:
    """A thread with a tiny model, and what it reports."""

    def __init__(self, folder: Path) -> None:
        make_tiny_model(folder, tied=True)
        self.model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.batch = RunningBatch(self.model, [])
        self.finished: queue.Queue[list[Row]] = queue.Queue()
        self.deaths: queue.Queue[Exception] = queue.Queue()
        self.thread = GenerationThread(
            self.batch,
            dict(self.model.named_parameters()),
            max_num_seqs=2,
            clear_kv=True,
            on_finished=self.finished.put,
            on_death=self.deaths.put,
        )
        self.thread.start()

    def weights(self) -> dict[str, torch.Tensor]:
        return {name: parameter.detach().clone() for name, parameter in self.model.named_parameters()}


@pytest.fixture
def case(tmp_path: Path) -> Iterator[Case]:
    case = Case(tmp_path / "model")
    yield case
    case.thread.close()


def row(index: int, max_tokens: int = 4) -> Row:
    return Row(stream=1, index=index, seed=index, temperature=1.0, max_tokens=max_tokens, prompt=[3, 4])


def test_rows_beyond_the_limit_wait_and_run_later(case: Case):
    case.thread.load(case.weights(), 3).result(SOON_S)
    case.thread.submit([row(index) for index in range(5)])
    ended: list[Row] = []
    while len(ended) < 5:
        ended += case.finished.get(timeout=SOON_S)
    assert [row.index for row in ended] == [0, 1, 2, 3, 4]
    assert all(row.starts == [(3, 0)] for row in ended)


@pytest.mark.parametrize("fault", ["missing", "unknown", "shape"])
def test_weights_that_do_not_fit_are_refused_before_any_is_copied(case: Case, fault: str):
    before, offered = case.weights(), {name: tensor + 1.0 for name, tensor in case.weights().items()}
    last = list(offered)[-1]
    if fault == "shape":
        offered[last] = offered[last][:-1]
    else:
        tensor = offered.pop(last)
        if fault == "unknown":
            offered["another.name"] = tensor
    with pytest.raises(ProlongError, match=r"the learner's parameters are not those of model\.path"):
        case.thread.load(offered, 1).result(SOON_S)
    assert all(torch.equal(tensor, before[name]) for name, tensor in case.weights().items())


def test_an_error_of_the_model_ends_the_thread_and_is_reported(case: Case, monkeypatch: pytest.MonkeyPatch):
    def broken(version: int) -> list[Row]:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(case.batch, "step", broken)
    case.thread.submit([row(0)])
    assert str(case.deaths.get(timeout=SOON_S)) == "out of memory"
    assert case.finished.empty()

"""A live source without a buffer: the ranks that only keep in step, and a stop before the buffer answers."""

import inspect
import threading
from pathlib import Path

import pytest
import torch
from prolong.common.config.sections import Config
from prolong.common.errors import ConfigError, RunStopped
from prolong.common.messages import PROTOCOL_VERSION, BatchReady, Hello, Role
from prolong.common.transport.wire import encode
from prolong.common.types import StepEvidence
from prolong.common.weights.collective import CollectiveTransport
from prolong.learner.ranks import Ranks
from prolong.learner.source.api import BatchSource
from prolong.learner.source.live import CONNECTED, LearnerClient, LiveSource, NullPublisher
from prolong.learner.source.recorded import RecordedSource

from tests.support.batches import make_policy, random_batch, small_config
from tests.support.tiny_model import make_tiny_model


class ScriptedRanks(Ranks):
    """One rank whose broadcasts are recorded (rank 0) or scripted (other ranks)."""

    def __init__(self, rank: int, *heard: bytes) -> None:
        super().__init__(rank=rank, size=2)
        self.heard = list(heard)
        self.sent: list[bytes] = []

    def broadcast_bytes(self, payload: bytes | None) -> bytes:
        if payload is None:
            return self.heard.pop(0)
        self.sent.append(payload)
        return payload

    def sum_(self, values: torch.Tensor) -> torch.Tensor:
        return values


@pytest.mark.parametrize("source", [LiveSource, RecordedSource])
def test_each_source_has_the_methods_of_the_seam_with_the_same_parameters(source: type) -> None:
    for name, method in vars(BatchSource).items():
        if not name.startswith("_") and callable(method):
            assert list(inspect.signature(getattr(source, name)).parameters) == list(inspect.signature(method).parameters), name


def test_a_rank_without_a_connection_keeps_in_step_and_takes_what_rank_0_hands_over() -> None:
    batch = random_batch(0)
    source = LiveSource(Config(), ScriptedRanks(1, CONNECTED, encode(BatchReady(batch=batch)), b""), threading.Event())
    source.connect(0, -1, 0)
    assert source.generation == -1
    assert source.take(0) == batch
    source.step_done(1, 0, saves=False, evidence=StepEvidence(ess=1.0, kl=0.0, wait_s=0.1, step_s=1.0))
    source.checkpoint_saved(1)
    assert source.take(1) is None
    assert source.ended is None
    assert source.finish(1) is None
    assert source.metrics() == {}
    source.close()


def test_a_rank_that_sends_no_weights_still_takes_part_in_gathering_them() -> None:
    gathered = iter([("a", torch.zeros(1)), ("b", torch.zeros(1))])
    NullPublisher().publish(3, gathered)
    assert list(gathered) == []


def learner_client(cfg: Config) -> LearnerClient:
    """Not connected."""
    hello = Hello(role=Role.learner, name="learner", protocol=PROTOCOL_VERSION, tokenizer="t", host="h", pid=1)
    return LearnerClient(cfg, hello, threading.Event())


def test_where_all_actors_pull_no_end_of_a_broadcast_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("a TCPStore was about to be opened")

    monkeypatch.setattr(CollectiveTransport, "open_learner_end", fail)
    cfg = small_config(make_tiny_model(tmp_path, tied=True))
    cfg.weights.transport = "pull"
    client = learner_client(cfg)
    publisher = client.open_weights(make_policy(cfg), torch.device("cpu"))
    assert publisher.metrics()["weights/offered"] == 0
    publisher.close()
    client.close()


def test_a_transport_that_there_is_not_is_refused_before_anything_is_connected() -> None:
    cfg = Config()
    cfg.weights.transport = "pigeon"
    with pytest.raises(ConfigError, match=r"weights\.transport = 'pigeon': expected one of collective, pull"):
        learner_client(cfg)


def test_a_stop_before_the_buffer_answers_ends_every_rank_with_the_command_to_go_on(tmp_path: Path) -> None:
    cfg, stop = Config(), threading.Event()
    cfg.model.path, cfg.buffer.address = str(make_tiny_model(tmp_path, tied=True)), "tcp://127.0.0.1:9"
    stop.set()
    first = ScriptedRanks(0)
    for ranks in (first, ScriptedRanks(1, b"")):
        source = LiveSource(cfg, ranks, stop)
        with pytest.raises(RunStopped, match=r"told to stop before the buffer answered, .*prolong learner --recipe") as raised:
            source.connect(0, -1, 0)
        assert raised.value.exit_code == 0
        source.close()
    assert first.sent == [b""]

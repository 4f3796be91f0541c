"""`prolong actor` as a process, with a real buffer and a scripted learner."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch
from prolong.buffer.client.client import BufferClient
from prolong.buffer.client.inbox import Inbox
from prolong.common.config.sections import Config
from prolong.common.messages import (
    PROTOCOL_VERSION,
    BatchReady,
    Hello,
    PublishPlan,
    PublishResult,
    Role,
    Status,
    StatusRequest,
    SyncRequested,
    TakeBatch,
)
from prolong.common.tokenizer import Tokenizer
from prolong.common.types import Batch
from prolong.common.weights.transports import configured_transport
from prolong.launch.recipes import compose
from prolong.learner.weights.packer import WeightPacker
from prolong.learner.weights.sender import WeightSender
from transformers import AutoModelForCausalLM

from tests.support.runs import free_port, living, wait_until
from tests.support.tiny_model import make_tiny_model

CLI = [sys.executable, "-m", "prolong.launch.cli"]
BATCH, N = 2, 4


def prompt(i: int) -> dict:
    """A line of a prompt file."""
    return {"prompt": f"{i}+{i}=", "domain": "math", "task": "t", "verifier": "math", "answer": {"answer": str(2 * i)}}


class Stage:
    """A buffer process, any number of actor processes, and the learner's end of the conversation in this one."""

    def __init__(self, root: Path) -> None:
        self.root, self.model = root, make_tiny_model(root / "model", tied=True, vocab=96)
        (root / "train.jsonl").write_text("".join(f"{json.dumps(prompt(i))}\n" for i in range(20)))
        self.overrides = [
            f"run.root={root}",
            "run.name=stage",
            f"model.path={self.model}",
            "model.max_context=128",
            "model.device=cpu",
            f"data.train=[{{file: {root}/train.jsonl}}]",
            f"buffer.address=tcp://127.0.0.1:{free_port()}",
            f"buffer.batch_groups={BATCH}",
            "buffer.dynamic_sampling=false",
            "buffer.silence_s=60",
            f"sampling.n={N}",
            "sampling.max_tokens=24",
            "actor.engine=transformers",
            "actor.kv_cache_gib=0.25",
            "actor.grace_s=60",
            "weights.timeout_s=60",
        ]
        self.cfg: Config = compose("", self.overrides)
        self.processes: list[subprocess.Popen] = []
        self.start("buffer")
        self._learner: tuple[BufferClient, Inbox[BatchReady], WeightSender] | None = None

    def start(self, command: str, *arguments: str, **changed: str) -> subprocess.Popen:
        overrides = [*self.overrides, *(f"{key.replace('__', '.')}={value}" for key, value in changed.items())]
        with (self.root / f"{command}-{len(self.processes)}.log").open("wb") as log:
            process = subprocess.Popen([*CLI, command, *arguments, *overrides], stdout=log, stderr=log, start_new_session=True)
        self.processes.append(process)
        return process

    def log(self, process: subprocess.Popen) -> str:
        command = process.args[3]  # type: ignore[index]
        return (self.root / f"{command}-{self.processes.index(process)}.log").read_text()

    def learner(self) -> tuple[BufferClient, Inbox[BatchReady]]:
        """Say Hello as the learner and publish version 0."""
        hello = self._hello(Role.learner, "learner", version=0)
        client = BufferClient(self.cfg.buffer.address, hello, max_bytes=1 << 26)
        inbox, weights = client.inbox(BatchReady), client.inbox(PublishPlan, PublishResult, SyncRequested)
        client.connect(60.0)
        model = AutoModelForCausalLM.from_pretrained(self.model, dtype=torch.float32)
        named = [(name, parameter.detach()) for name, parameter in model.named_parameters()]
        specs = [(name, tensor.dtype, tensor.shape) for name, tensor in named]
        cfg = self.cfg.weights
        end = configured_transport(cfg).open_learner_end(cfg, torch.device("cpu"))
        packer = WeightPacker(specs, cfg.bucket_mb << 20)
        sender = WeightSender(client, weights, end, packer, cfg)
        sender.start()
        sender.publish(packer.pack(0, named))
        self._learner = client, inbox, sender
        return client, inbox

    def batch(self) -> Batch:
        assert self._learner is not None
        client, inbox, _ = self._learner
        assert client.welcome is not None
        client.send(TakeBatch(generation=client.welcome.generation, version=0))
        return inbox.take(240.0).batch

    def status(self) -> Status:
        observer = BufferClient(self.cfg.buffer.address, self._hello(Role.observer, "observer"), max_bytes=1 << 26)
        inbox = observer.inbox(Status)
        observer.connect(60.0)
        observer.send(StatusRequest())
        status = inbox.take(60.0)
        observer.close()
        return status

    def _hello(self, role: Role, name: str, version: int = -1) -> Hello:
        tokenizer = Tokenizer.load(str(self.model)).fingerprint
        where = {"host": socket.gethostname(), "pid": os.getpid()}
        return Hello(role=role, name=name, protocol=PROTOCOL_VERSION, tokenizer=tokenizer, version=version, **where)

    def close(self) -> None:
        if self._learner is not None:
            client, _, sender = self._learner
            sender.close()
            client.close()
        for process in self.processes:
            if process.poll() is None:
                process.kill()
                process.wait(10)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(tmp_path)
    yield stage
    stage.close()


def descendants(process: subprocess.Popen) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def test_an_actor_delivers_scored_groups_and_leaves_cleanly_on_sigterm(stage: Stage):
    actor = stage.start("actor", "--name", "a")
    stage.learner()
    batch = stage.batch()
    assert len(batch.groups) == BATCH
    for group in batch.groups:
        assert (group.actor, len(group.rollouts), group.dropped_rollouts) == ("a", N, 0)
        assert (group.sampling.n, group.sampling.max_tokens) == (N, 24)
        assert len({rollout.token_ids for rollout in group.rollouts}) > 1
        assert all([span.version for span in rollout.spans] == [0] for rollout in group.rollouts)
        assert all(rollout.verdict.verifier == "math" and rollout.verdict.reward is not None for rollout in group.rollouts)
    family = descendants(actor)
    assert family  # a verifier
    actor.send_signal(signal.SIGTERM)
    assert actor.wait(120) == 0, stage.log(actor)
    wait_until("the end of all its processes", lambda: not living(family), 60.0)
    # long before its silence would end its leases
    wait_until("the end of its leases", lambda: stage.status().ledger["leased"] == 0, 20.0)


@pytest.mark.timeout(600)
def test_a_killed_actor_leaves_no_process_and_a_successor_with_another_engine_takes_over(stage: Stage):
    first = stage.start("actor", "--name", "a", actor__engine="vllm")
    stage.learner()
    wait_until("a group", lambda: stage.status().ledger["stored"] > 0, 240.0)
    family = descendants(first)
    assert len(family) >= 2  # vLLM's engine process and a verifier
    first.kill()
    wait_until("the end of all its processes", lambda: not living(family), 60.0)
    stage.start("actor", "--name", "a")
    assert len(stage.batch().groups) == BATCH


def test_an_actor_without_a_model_says_so_with_exit_code_2(stage: Stage):
    actor = stage.start("actor", "--name", "b", model__path=str(stage.root / "nowhere"))
    assert actor.wait(240) == 2
    assert "nowhere" in stage.log(actor).splitlines()[-1]

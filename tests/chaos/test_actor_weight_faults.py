"""Two real actors, one of them killed or stopped inside a broadcast: the other has the new weights in seconds.

One runs vLLM, the other transformers. An actor that comes back generates with the versions that it names. `-s`: figures.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from prolong.buffer.client.client import BufferClient
from prolong.buffer.client.observer import request_status
from prolong.common.messages import (
    PROTOCOL_VERSION,
    BatchReady,
    Hello,
    PublishPlan,
    PublishResult,
    Role,
    StepDone,
    SyncRequested,
    TakeBatch,
)
from prolong.common.tokenizer import Tokenizer
from prolong.common.types import Batch, Group, Rollout, float32_array, int32_array
from prolong.common.weights.collective_group import WeightsGroup
from prolong.common.weights.transports import configured_transport
from prolong.launch.recipes import compose
from prolong.learner.weights.packer import WeightPacker
from prolong.learner.weights.sender import WeightSender
from transformers import AutoModelForCausalLM

from tests.support.runs import free_port, wait_until

CLI = [sys.executable, "-m", "prolong.launch.cli"]
SURVIVORS_S = 20.0  # beyond the transfer itself: many times what a quiet machine needs, below the limit of a broadcast
START_S = 500.0  # two engines on a busy machine
SOON_S = 150.0  # for what happens at once on a machine that is not busy
ENGINES = {"a": "vllm", "b": "transformers"}  # of each actor


class Cluster:
    """A buffer and two actors as processes. The learner's client and sender live in this one, and send real weights."""

    def __init__(self, root: Path, model: Path) -> None:
        self.root, self.folder = root, model
        self.overrides = [
            f"run.root={root}",
            "run.name=faults",
            f"model.path={model}",
            "model.max_context=128",
            "model.device=cpu",
            f"data.train=[{{file: {model}/train.jsonl}}]",
            f"buffer.address=tcp://127.0.0.1:{free_port()}",
            "buffer.batch_groups=2",
            "buffer.dynamic_sampling=false",
            "sampling.n=4",
            "sampling.max_tokens=24",
            "actor.kv_cache_gib=0.25",
            "weights.timeout_s=30",
            "weights.bucket_mb=1",
        ]
        self.cfg = compose("", self.overrides)
        self.processes: dict[str, subprocess.Popen] = {}
        self.ends = contextlib.ExitStack()

    def begin(self) -> None:
        self.start("buffer", "buffer")
        self.model = AutoModelForCausalLM.from_pretrained(self.folder, dtype=torch.float32)
        self.first = {name: parameter.detach().clone() for name, parameter in self.model.named_parameters()}
        self.version = 0
        self.client = BufferClient(self.cfg.buffer.address, self._hello(), max_bytes=1 << 26)
        self.batches, weights = self.client.inbox(BatchReady), self.client.inbox(PublishPlan, PublishResult, SyncRequested)
        self.ends.callback(self.client.close)
        self.client.connect(SOON_S)
        specs = [(name, tensor.dtype, tensor.shape) for name, tensor in self.first.items()]
        end = configured_transport(self.cfg.weights).open_learner_end(self.cfg.weights, torch.device("cpu"))
        self.packer = WeightPacker(specs, self.cfg.weights.bucket_mb << 20)
        self.sender = WeightSender(self.client, weights, end, self.packer, self.cfg.weights)
        self.sender.start()
        self.ends.callback(self.sender.close)
        self.publish()

    def _hello(self) -> Hello:
        tokenizer = Tokenizer.load(str(self.folder)).fingerprint
        where = {"host": socket.gethostname(), "pid": os.getpid()}
        return Hello(role=Role.learner, name="learner", protocol=PROTOCOL_VERSION, tokenizer=tokenizer, version=0, **where)

    def start(self, command: str, name: str, *arguments: str) -> None:
        with (self.root / f"{name}.log").open("wb") as log:
            line = [*CLI, command, *arguments, *self.overrides]
            self.processes[name] = subprocess.Popen(line, stdout=log, stderr=log, start_new_session=True)
        self.ends.callback(kill_group, self.processes[name])

    def start_actor(self, name: str) -> None:
        self.start("actor", name, "--name", name, f"actor.engine={ENGINES[name]}")

    def family(self, name: str) -> list[psutil.Process]:
        """The processes of the actor, its engine and its verifiers."""
        actor = psutil.Process(self.processes[name].pid)
        return [actor, *actor.children(recursive=True)]

    def weights_of(self, version: int) -> dict[str, torch.Tensor]:
        """Weights so different that log-probabilities tell the versions apart."""
        return {name: tensor * (1 + 0.05 * version) for name, tensor in self.first.items()}

    def publish(self) -> float:
        """Send the current version; returns the time."""
        started = time.monotonic()
        self.sender.publish(self.packer.pack(self.version, self.weights_of(self.version).items()))
        return started

    def step(self) -> Batch:
        """Take the batch of this version and make the next version, which is not published yet."""
        assert self.client.welcome is not None
        generation = self.client.welcome.generation
        self.client.send(TakeBatch(generation=generation, version=self.version))
        batch = self.batches.take(SOON_S).batch
        self.version += 1
        self.client.send(StepDone(generation=generation, version=self.version))
        return batch

    def wait_for(self, *names: str, timeout_s: float = SOON_S) -> float:
        """Wait until the buffer has their acknowledgements of the current version; returns the time."""

        def ready() -> bool:
            peers = request_status(self.cfg.buffer.address, SOON_S).peers
            return all(
                (peers.get(n, {}).get("state"), peers.get(n, {}).get("version")) == ("ready", self.version) for n in names
            )

        wait_until(f"version {self.version} at {names}", ready, timeout_s)
        return time.monotonic()

    def differences(self, group: Group) -> np.ndarray:
        """|behaviour - recomputed| log-probability of every token, under the version that its span names."""
        return np.concatenate([self._differences(group, rollout) for rollout in group.rollouts])

    def _differences(self, group: Group, rollout: Rollout) -> np.ndarray:
        prompt, completion = int32_array(group.prompt.token_ids).tolist(), int32_array(rollout.token_ids).tolist()
        tokens, behaviour = torch.tensor([prompt + completion]), float32_array(rollout.behaviour_logprobs)
        differences = np.empty(len(completion))
        for span in rollout.spans:
            self.model.load_state_dict(self.weights_of(span.version), strict=False)
            with torch.no_grad():
                logits = self.model(tokens).logits[0, len(prompt) - 1 : -1].float() / group.sampling.temperature
            own = logits.log_softmax(-1).gather(1, tokens[0, len(prompt) :, None])[:, 0].numpy()
            differences[span.start : span.end] = np.abs(own - behaviour)[span.start : span.end]
        return differences

    def close(self) -> None:
        self.ends.close()


def kill_group(process: subprocess.Popen) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(60)


class AfterFirstBucket:
    """Calls `then` once, after the learner has sent the first bucket of its next broadcast."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.then: Callable[[], None] | None = None
        self.called_s = 0.0
        send = WeightsGroup.broadcast

        def broadcast(group: WeightsGroup, flat: torch.Tensor, timeout_s: float | None = None) -> None:
            send(group, flat, timeout_s)
            if self.then is not None:
                then, self.then = self.then, None
                then()
                self.called_s = time.monotonic()

        monkeypatch.setattr(WeightsGroup, "broadcast", broadcast)


@pytest.fixture
def cluster(tmp_path: Path, demo_model: Path) -> Iterator[Cluster]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    cluster = Cluster(tmp_path, demo_model)
    try:
        cluster.begin()
        yield cluster
    finally:
        cluster.close()
        torch.set_num_threads(threads)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_survivor_of_a_killed_or_stopped_actor_has_the_weights_long_before_the_limit_of_a_broadcast(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook, figures, transfers = AfterFirstBucket(monkeypatch), [], []
    for name in ("a", "b"):
        cluster.start_actor(name)
    cluster.wait_for("a", "b", timeout_s=START_S)
    for kind, victim, survivor in (("stop", "a", "b"), ("stop", "b", "a"), ("kill", "a", "b"), ("kill", "b", "a")):
        cluster.step()
        transfers.append(-cluster.publish() + cluster.wait_for("a", "b"))
        family = cluster.family(victim)

        def fault(family: list[psutil.Process] = family, kind: str = kind) -> None:
            for process in family:
                # what the actor started may end with it before its own turn comes
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.suspend() if kind == "stop" else process.kill()

        cluster.step()
        hook.then, hook.called_s = fault, 0.0
        cluster.publish()
        took_s = cluster.wait_for(survivor) - hook.called_s
        assert 0 < hook.called_s < time.monotonic()
        assert took_s <= SURVIVORS_S + max(transfers), f"{kind} of {victim}: {took_s:.1f} s"
        figures.append(f"{kind} of {victim}: {took_s:.2f} s")
        if kind == "stop":
            for process in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.resume()
        else:
            cluster.processes[victim].wait(SOON_S)
            cluster.start_actor(victim)
        cluster.wait_for("a", "b", timeout_s=START_S)
    print(f"\nuntil the survivor has the weights: {', '.join(figures)}; without fault: {max(transfers):.2f} s at most")
    authors = set()
    while authors < {"a", "b"}:
        for group in cluster.step().groups:
            authors.add(group.actor)
            assert cluster.differences(group).mean() < 1e-4, f"{group.actor} sampled from other weights than it says"
        cluster.publish()
        cluster.wait_for("a", "b")

"""A weights plane under faults: a real buffer, the learner's sender in this process, light members in processes of their own.

After each fault a test can tell when the survivors got every byte of the new version, and that no member claims a version whose
bytes it does not hold.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import pytest
import torch
from prolong.buffer.client.client import BufferClient
from prolong.buffer.client.observer import request_status
from prolong.common.config.sections import Config
from prolong.common.errors import WeightsError
from prolong.common.messages import Cordon, PublishPlan, PublishResult, Role, SyncRequested
from prolong.common.weights.buckets import checksum, fill_bucket, plan_buckets
from prolong.common.weights.collective_group import WeightsGroup
from prolong.common.weights.transports import configured_transport
from prolong.learner.weights.adaptive_deadline import AdaptiveDeadline
from prolong.learner.weights.packer import WeightPacker
from prolong.learner.weights.sender import WeightSender

from tests.support.buffer_process import BufferProcess, hello, make_client
from tests.support.forks import CONTEXT
from tests.support.light_member import Fault, run_member
from tests.support.runs import wait_until

NUM_BUCKETS, SIDE = 8, 512  # of 1 MiB each
SPECS = [(f"layer.{i}.weight", torch.float32, (SIDE, SIDE)) for i in range(NUM_BUCKETS)]
MANIFEST = plan_buckets(SPECS, 1 << 20)
HANG_S = 150.0  # a wait that takes longer hangs, on any machine


def weights(version: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(version)
    return {name: torch.randn(shape, generator=generator) for name, _, shape in SPECS}


def sums_of(version: int) -> list[int]:
    tensors = weights(version)
    return [checksum(fill_bucket(bucket, tensors)) for bucket in MANIFEST.buckets]


@dataclass
class Member:
    """The process of one light member, and the messages that came from it."""

    name: str
    process: BaseProcess
    pipe: Connection
    held: dict[int, float] = field(default_factory=dict)  # version -> time at which it had that version
    sums: dict[int, list[int]] = field(default_factory=dict)  # version -> checksums, of the last time it came
    num_received: int = 0
    fault_s: float | None = None  # time of the armed fault

    def listen(self) -> list[Any]:
        """Read the messages that have come. Returns the states among them; faults and versions are noted."""
        states = []
        try:
            while self.pipe.poll():
                kind, *said = self.pipe.recv()
                if kind == "fault":
                    self.fault_s = said[0]
                elif kind == "holds":
                    self.held.setdefault(said[0], said[2])
                    self.sums[said[0]] = said[1]
                    self.num_received += 1
                else:
                    states.append(said)
        except (EOFError, ConnectionResetError):
            pass
        return states

    def ask(self, command: Fault | str) -> Any:
        """Send a command; returns (generation, version, checksums of the weights that it would generate with)."""
        self.pipe.send(command)
        return wait_until(f"a state of {self.name}", self.listen, HANG_S)[-1]  # type: ignore[index]

    def holds(self, version: int) -> bool:
        self.listen()
        return version in self.held


class Storm:
    """Members with version 0 and a learner whose next version is 1, between `begin` and `close`."""

    def __init__(self, cfg: Config, monkeypatch: pytest.MonkeyPatch, *, slack_s: float) -> None:
        self.cfg, self._slack_s = cfg, slack_s
        self.buffer = BufferProcess(cfg)
        self.members: dict[str, Member] = {}
        self.version = -1
        self._lives = 0  # learners that were started
        self._fail_at: int | None = None  # bucket whose broadcast fails at the learner
        self.failed_s: float | None = None
        self._patch(monkeypatch)

    def begin(self, num_members: int) -> None:
        self.start_learner()
        for i in range(num_members):
            self.spawn(f"actor-{i}")
        wait_until("all actors are in", lambda: len(self.peers()) == num_members, HANG_S)
        self.publish()
        self.settle()

    def _patch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let the learner's broadcasts fail at `_fail_at`. No other rank lives in this process."""
        send = WeightsGroup.broadcast
        sent = 0

        def broadcast(group: WeightsGroup, flat: torch.Tensor, timeout_s: float | None = None) -> None:
            nonlocal sent
            sent += 1
            if self._fail_at is not None and (sent - 1) % NUM_BUCKETS >= self._fail_at:
                self._fail_at, self.failed_s, sent = None, time.monotonic(), 0
                raise WeightsError("the learner fails")
            send(group, flat, timeout_s)

        monkeypatch.setattr(WeightsGroup, "broadcast", broadcast)

    # --- the learner ---

    def start_learner(self) -> None:
        pid = os.getpid() + self._lives + 1  # to the buffer, each life is another process
        self.client: BufferClient = make_client(self.cfg, self.buffer.address, Role.learner, "learner", pid=pid)
        inbox = self.client.inbox(PublishPlan, PublishResult, SyncRequested)
        self.client.connect(HANG_S)
        deadline = AdaptiveDeadline(self.cfg.weights.timeout_s, slack_s=self._slack_s)
        end = configured_transport(self.cfg.weights).open_learner_end(self.cfg.weights, torch.device("cpu"))
        self.packer = WeightPacker(SPECS, self.cfg.weights.bucket_mb << 20)
        self.sender = WeightSender(self.client, inbox, end, self.packer, self.cfg.weights, deadline)
        self.sender.start()
        self._lives += 1

    def stop_learner(self) -> None:
        self.sender.close()
        self.client.close()

    def publish(self) -> float:
        """Publish the next version; returns the time."""
        self.version += 1
        started = time.monotonic()
        self.sender.drop_waiting()
        self.sender.publish(self.packer.pack(self.version, weights(self.version).items()))
        return started

    @property
    def phase_timeout_s(self) -> float:
        """As in the last Publish."""
        return self.sender.metrics()["weights/phase_timeout_s"]

    def new_epoch(self) -> None:
        """Have the next broadcast begin another epoch: cordon one member, which then gets its weights again, alone."""
        member = next(iter(self.members.values()))
        before = member.num_received
        self.client.send(Cordon(epoch=0, names=[member.name]))
        wait_until(f"{member.name} to get its weights again", lambda: member.listen() or member.num_received > before, HANG_S)
        self.settle()

    def fail_at(self, bucket: int) -> None:
        """Let the learner's next broadcast fail at that bucket."""
        self._fail_at, self.failed_s = bucket, None

    # --- the members ---

    def spawn(self, name: str) -> Member:
        ours, theirs = CONTEXT.Pipe()
        greeting = hello(self.cfg, Role.actor, name)
        args = (self.buffer.address, greeting, self.cfg.weights.timeout_s, theirs)
        process = CONTEXT.Process(target=run_member, args=args, daemon=True)
        process.start()
        theirs.close()
        self.members[name] = Member(name, process, ours)
        return self.members[name]

    def kill(self, name: str) -> None:
        self.members[name].process.kill()
        self.members[name].process.join(10)
        self.members[name].pipe.close()

    def peers(self) -> dict[str, dict[str, float | str]]:
        """The actors in the buffer's status."""
        peers = request_status(self.buffer.address, HANG_S).peers
        return {name: peer for name, peer in peers.items() if peer["role"] == "actor"}

    def settle(self) -> None:
        """Wait until every member is ready with the newest version; compare its bytes with what it claims."""

        def ready() -> bool:
            peers = self.peers()
            return len(peers) == len(self.members) and all(
                (peer["state"], peer["version"]) == ("ready", self.version) for peer in peers.values()
            )

        try:
            wait_until(f"version {self.version} everywhere", ready, HANG_S)
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.peers()}") from None
        assert self.sender.wait_idle(HANG_S)
        expected = sums_of(self.version)
        for member in self.members.values():
            _, version, sums = member.ask("state")
            assert (version, sums) == (self.version, expected), f"{member.name} claims {self.version}, holds {version}"

    def close(self) -> None:
        with self.buffer, contextlib.ExitStack() as ends:
            for name in self.members:
                ends.callback(self.kill, name)
            if self._lives:
                self.stop_learner()

"""Actors that are killed and stopped in the middle of a weight broadcast, and how soon the learner goes on.

this process: the learner's end   --broadcast-->   members, each a process of its own with an actor's end
"""

from __future__ import annotations

import os
import signal
import threading
from contextlib import closing
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from time import perf_counter

import msgspec
import torch

from ..common.config.sections import WeightsConfig
from ..common.errors import WeightsError
from ..common.messages import PublishPlan, UpdateWeights
from ..common.weights.api import LearnerEnd
from ..common.weights.buckets import PackedWeights
from ..common.weights.transports import ENGINE_TRANSPORTS, configured_transport, transport_named
from ..learner.weights.packer import WeightPacker

PHASE_S = 5.0
MEMBERS = ("healthy", "killed", "stopped")
# [bytes] per bucket and number of buckets
BUCKET_MB, NUM_BUCKETS = 64, 4
START_S = 60.0


@dataclass(frozen=True, slots=True)
class Member:
    """A member's process. It takes encoded UpdateWeights, and answers with one word for each."""

    process: BaseProcess
    pipe: Connection


def serve_member(pipe: Connection, device: str) -> None:
    """Download what is offered. The word is "ok" or the error; with `fault` this process strikes itself after a bucket."""
    if device == "cuda":
        torch.cuda.set_device(0)
    ends = {}
    pipe.send("ready")
    while True:
        frame, fault = pipe.recv()
        update = msgspec.msgpack.decode(frame, type=UpdateWeights)
        name = update.rendezvous.transport
        if name not in ends:
            ends[name] = transport_named(name, ENGINE_TRANSPORTS).open_actor_end(torch.device(device))
        try:
            with closing(ends[name].download(update, PHASE_S)) as buckets:
                for number, _ in enumerate(buckets):
                    if fault and number == 1:
                        os.kill(os.getpid(), fault)
            pipe.send("ok")
        except WeightsError as error:
            pipe.send(str(error))


class Broadcasts:
    """Publishes random weights to members; every fault begins another epoch with those that are left."""

    def __init__(self, device: torch.device) -> None:
        specs = [(f"bucket.{i}", torch.bfloat16, (BUCKET_MB << 19,)) for i in range(NUM_BUCKETS)]
        packer = WeightPacker(specs, BUCKET_MB << 20)
        tensors = [(name, torch.randn(shape, device=device).to(dtype)) for name, dtype, shape in specs]
        self._weights: PackedWeights = packer.pack(0, tensors)
        cfg = WeightsConfig(timeout_s=PHASE_S)
        self._end: LearnerEnd = configured_transport(cfg).open_learner_end(cfg, device)
        self._epoch = 0

    def publish(self, members: dict[str, Member], struck: str = "", fault: int = 0) -> tuple[float, bool]:
        """Seconds of one publish to the members in an epoch of their own, and whether it succeeded."""
        self._end.disconnect()
        self._epoch += 1
        for number, (name, member) in enumerate(members.items()):
            update = UpdateWeights(
                generation=1,
                version=self._epoch,
                epoch=self._epoch,
                member=number,
                num_members=len(members),
                rendezvous=self._end.rendezvous,
                manifest=self._weights.manifest,
                phase_timeout_s=PHASE_S,
            )
            member.pipe.send((msgspec.msgpack.encode(update), fault if name == struck else 0))
        plan = PublishPlan(generation=1, version=self._epoch, epoch=self._epoch, members=list(members))
        start = perf_counter()
        try:
            self._end.publish(plan, self._weights, PHASE_S)
        except WeightsError:
            return perf_counter() - start, False
        return perf_counter() - start, True

    def close(self) -> None:
        self._end.close()


def _start(name: str, device: torch.device) -> Member:
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve_member, args=(theirs, device.type), name=name, daemon=True)
    process.start()
    theirs.close()
    member = Member(process, ours)
    if _word(member, START_S) != "ready":
        raise RuntimeError(f"member {name} did not start")
    return member


def _word(member: Member, timeout_s: float) -> str:
    try:
        return str(member.pipe.recv()) if member.pipe.poll(timeout_s) else "no answer"
    except EOFError:
        return "gone"


def measure_faults(device: torch.device, survive_s: float) -> dict[str, object]:
    """Seconds from the order to the learner's error, and to the next good broadcast, for a killed and for a stopped member.

    survive_s: time to wait at the end, in which a watchdog of the broken groups could still end this process.
    """
    members = {name: _start(name, device) for name in MEMBERS}
    broadcasts = Broadcasts(device)
    try:
        good_s, succeeded = broadcasts.publish(members)
        result: dict[str, object] = {"bytes": (BUCKET_MB << 20) * NUM_BUCKETS, "all_well": succeeded, "good_s": good_s}
        result["first_words"] = [_word(member, 2 * PHASE_S) for member in members.values()]
        for name, fault in (("killed", signal.SIGKILL), ("stopped", signal.SIGSTOP)):
            failed_s, succeeded = broadcasts.publish(members, name, fault)
            struck = members.pop(name)
            words = {other: _word(member, 4 * PHASE_S) for other, member in members.items()}
            again_s, recovered = broadcasts.publish(members)
            words_after = {other: _word(member, 2 * PHASE_S) for other, member in members.items()}
            struck.process.kill()
            result[name] = {
                "noticed": not succeeded,
                "noticed_s": failed_s,
                "others_answered": "no answer" not in words.values(),
                "recovered": recovered and set(words_after.values()) == {"ok"},
                "next_s": again_s,
            }
        threading.Event().wait(survive_s)
        result["survived_s"] = survive_s
        return result
    finally:
        broadcasts.close()
        for member in members.values():
            member.process.kill()

"""A buffer under attack, for tests: a well-behaved actor and learner at work, hostile sockets, and a look at its memory."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zmq
from prolong.buffer.client.observer import request_status
from prolong.common import messages as m
from prolong.common.config.sections import Config
from prolong.common.errors import DeadlineExceeded
from prolong.common.transport.quarantine import STRIKES
from prolong.common.transport.sockets import connect_dealer
from prolong.common.transport.wire import Decoder, encode
from prolong.common.types import Batch, Group, Ticket

from tests.support.buffer_process import NOTHING, NOWHERE, BufferProcess, answer, apply, hello, make_client, publish
from tests.support.fuzzing import Fuzzer, make_samples
from tests.support.runs import wait_until


class Pair:
    """A well-behaved actor and learner at work, each in a thread of its own."""

    def __init__(self, cfg: Config, address: str, pad: Callable[[Group], Group] | None = None) -> None:
        """pad: changes half of the groups, four in a row, before they are sent."""
        self.num_batches = self.num_padded = 0
        self._pad, self._num_answered = pad, 0
        self._learned, self._over = threading.Event(), threading.Event()
        self._errors: list[BaseException] = []
        self._cfg = cfg
        self._actor = make_client(cfg, address, m.Role.actor, "actor-0")
        self._learner = make_client(cfg, address, m.Role.learner, "learner")
        self._work = self._actor.inbox(m.Tickets, m.UpdateWeights)
        self._plans = self._learner.inbox(m.PublishPlan, m.PublishResult)
        self._asked = self._learner.inbox(m.BatchReady, m.SyncRequested)
        self._threads = [threading.Thread(target=self._guarded, args=(loop,)) for loop in (self._act, self._learn)]

    def _guarded(self, loop) -> None:
        try:
            loop()
        except BaseException as error:
            self._errors.append(error)

    def _act(self) -> None:
        while not self._over.is_set():
            try:
                message = self._work.take(0.1)
            except DeadlineExceeded:
                continue
            if isinstance(message, m.UpdateWeights):
                apply(self._actor, message)
                continue
            for ticket in message.tickets:
                self._actor.send(m.GroupResult(group=self._answer(ticket)))

    def _answer(self, ticket: Ticket) -> Group:
        group = answer(ticket, "actor-0")
        self._num_answered += 1
        if self._pad is None or self._num_answered % 8 > 3:
            return group
        self.num_padded += 1
        return self._pad(group)

    def _learn(self) -> None:
        generation, version = self._learner.connect(60.0).generation, 0
        while not self._learned.is_set():
            publish(self._learner, self._plans, generation, version)
            self._learner.send(m.TakeBatch(generation=generation, version=version))
            batch = self._batch(generation, version)
            assert (batch.version, len(batch.groups)) == (version, self._cfg.buffer.batch_groups)
            version += 1
            self.num_batches += 1
            self._learner.send(m.StepDone(generation=generation, version=version))
            self._learner.send(m.CheckpointSaved(generation=generation, version=version))

    def _batch(self, generation: int, version: int) -> Batch:
        """The batch that was asked for. An actor that was silent for long on a busy machine needs the weights again before."""
        while isinstance(message := self._asked.take(60.0), m.SyncRequested):
            publish(self._learner, self._plans, generation, version)
        return message.batch

    def wait_for(self, num_more: int) -> None:
        """Wait until so many more batches are trained. Raises the error of a thread that failed."""
        goal = self.num_batches + num_more
        wait_until(f"{num_more} more batches", lambda: self._errors or self.num_batches >= goal, 90.0)
        if self._errors:
            raise self._errors[0]

    def __enter__(self) -> Pair:
        self._actor.connect(60.0)  # first: a learner that is alone has nothing to publish
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for event, thread in ((self._learned, self._threads[1]), (self._over, self._threads[0])):  # the actor serves to the end
            event.set()
            thread.join(90.0)
        self._actor.close(0.0)
        self._learner.close(0.0)


class Memory:
    """The rise of a process's resident memory above its value at the start."""

    def __init__(self, pid: int) -> None:
        self._folder = Path(f"/proc/{pid}")
        (self._folder / "clear_refs").write_text("5")  # resets the peak
        self._before = self._read("VmRSS")

    def _read(self, name: str) -> int:
        line = next(line for line in (self._folder / "status").read_text().splitlines() if line.startswith(name + ":"))
        return int(line.split()[1]) << 10

    def growth(self) -> int:
        """The peak above the start, in bytes."""
        return self._read("VmHWM") - self._before


class Hostile:
    """Raw sockets connected to one buffer, each with a routing id of its own."""

    def __init__(self, context: zmq.Context, cfg: Config, address: str, seed: int) -> None:
        self._context, self._cfg, self.address = context, cfg, address
        self._num_sockets = 0
        self._limit = cfg.buffer.max_message_mb << 20
        self.fuzzer = Fuzzer(seed, make_samples(self.hello(m.Role.actor)), self._limit)
        self.num_sent = self.num_told = 0

    def hello(self, role: m.Role, name: str = "rogue", **changes) -> m.Hello:
        return hello(self._cfg, role, name, **({"pid": 1} | changes))

    def as_learner(self, generation: int) -> list[Any]:
        """Messages of a learner of this generation, in an order that makes no sense."""
        greeting = self.hello(m.Role.learner, generation=generation)
        steps: list[dict[str, Any]] = [{"generation": generation, "version": version} for version in (0, 1, 2)]
        kinds = (m.TakeBatch, m.StepDone, m.CheckpointSaved, m.Finish)
        said = [kind(**step) for kind in kinds for step in steps]
        publish = m.Publish(**steps[0], rendezvous=NOWHERE, manifest=NOTHING)
        return [greeting, *said, publish, m.Heartbeat(stats={"x": 1.0}), m.Cordon(epoch=1, names=["rogue"])]

    def dealer(self) -> zmq.Socket:
        self._num_sockets += 1
        return connect_dealer(self._context, self.address, 2 * self._limit, b"rogue-%d" % self._num_sockets)

    def send_malformed(self, num_frames: int) -> None:
        """Send frames from enough senders to keep each out of quarantine, a hundred at a time, until all have arrived."""
        goal = self.num_sent + num_frames
        while self.num_sent < goal:
            for _ in range(100):
                with self.dealer() as dealer:
                    for _ in range(min(STRIKES - 1, goal - self.num_sent)):
                        dealer.send_multipart(self.fuzzer.malformed())
                        self.num_sent += 1
                    dealer.linger = 20_000
            wait_until(f"{self.num_sent} refused frames", lambda: self.num_refused() >= self.num_sent, 60)

    def num_refused(self) -> int:
        """The buffer's count of malformed frames."""
        return self.status().counters.get("buffer/rejected_frames", 0)

    def send_from_one(self, frames: list[bytes]) -> m.Status:
        """Send frames on one connection; returns the buffer's answers after it has handled all of them."""
        with self.dealer() as dealer:
            for frame in frames:
                dealer.send(frame)
            dealer.send(encode(m.StatusRequest()))
            decoder: Decoder[Any] = Decoder(m.FromBuffer, 2 * self._limit)
            while dealer.poll(60_000):
                heard = decoder.decode(dealer.recv())
                if isinstance(heard, m.Status):
                    return heard
        raise AssertionError(f"no answer behind {len(frames)} frames")

    def tell(self, frames: list[bytes]) -> None:
        """Send, and wait until it is handled; returns the answer, if one comes."""
        with self.dealer() as dealer:
            for frame in frames:
                dealer.send(frame)
            dealer.send(b"")
            goal = self.num_told + 1
            wait_until("a frame to be handled", lambda: self.num_refused() >= goal, 60.0)
            self.num_told = goal

    def status(self) -> m.Status:
        return request_status(self.address, 60.0)


def assert_sound(buffer: BufferProcess, status: m.Status) -> None:
    assert buffer.process.poll() is None, buffer.errors()
    assert status.balanced
    assert status.ledger["total"] == sum(count for state, count in status.ledger.items() if state != "total")

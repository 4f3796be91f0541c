"""The simulated buffer process: the shipped OutputCommit, core and journal, driven as buffer/serving/service.py drives them."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from prolong.buffer.core.core import BufferCore
from prolong.buffer.core.settings import RunSettings
from prolong.buffer.journal.disk import Disk
from prolong.buffer.journal.journal import Journal
from prolong.buffer.journal.records import Move
from prolong.buffer.serving.output_commit import Frame, Outgoing, OutputCommit
from prolong.buffer.tickets.mixture import PromptMixture
from prolong.buffer.tickets.planned_mixture import PlannedMixture
from prolong.common import messages as m
from prolong.common.config.trees import curriculum_config
from prolong.common.transport.wire import Decoder
from prolong.common.types import Prompt

from .disk import Crashed, DiskBroken
from .plan import SOURCES
from .process import Process

if TYPE_CHECKING:
    from .audit import Audit
    from .judge import Judge
    from .world import World

TICK_S = 1.0  # longer than the real one, because frames cause most of what becomes due
TURN_S = 0.002  # from a frame's arrival to the turn that reads it, with all frames that came meanwhile
BURST = 64
MAX_BYTES = 1 << 24
_answers: Decoder[Any] = Decoder(m.FromBuffer, MAX_BYTES)


def prompts(name: str, count: int) -> list[Prompt]:
    return [
        Prompt(uid=f"{name}/{i}", domain="d", task=f"t{i % 2}", text="?", token_ids=b"\0\0\0\0", verifier="none")
        for i in range(count)
    ]


TRAIN, HELDOUT = [prompts(name, 5) for name in SOURCES], prompts("heldout", 2)


class WatchedJournal(Journal):
    """The journal; it tells the audit of moves: those that a checkpoint covers may be dropped before the disk has them."""

    def __init__(self, disk: Disk, audit: Audit) -> None:
        super().__init__(disk)
        self._audit = audit

    def add_moves(self, moves: list[Move]) -> None:
        self._audit.moved(moves)
        super().add_moves(moves)


class Watched:
    """The core as OutputCommit calls it, with the judge as a witness of every call."""

    def __init__(self, core: BufferCore, judge: Judge) -> None:
        self.core, self.judge = core, judge
        self.may_leave, self.finished, self.stop, self.count = core.may_leave, core.finished, core.stop, core.count
        self.admit_keys = core.admit_keys

    def handle(self, peer: bytes, message: m.FromClient, now: float, frame: bytes = b"") -> list[Outgoing]:
        with self.judge.rules_on(message, self.core):
            out = self.core.handle(peer, message, now, frame)
        self.judge.heard(peer, message, out, self.core)
        self.judge.balanced(self.core)
        return out

    def tick(self, now: float) -> list[Outgoing]:
        with self.judge.rules_on(None, self.core):
            out = self.core.tick(now)
        self.judge.balanced(self.core)
        self.judge.deadlines(self.core)
        self.judge.leases(self.core)
        for _, message in out:
            if isinstance(message, m.Tickets):
                for ticket in message.tickets:
                    self.judge.issued(ticket)
                    self.judge.admitted(ticket, self.core)
        return out

    def commit(self) -> None:
        self.judge.audit.about_to_commit(self.core)
        self.core.commit()


class Buffer(Process):
    """One life of the buffer. It goes on from the disk of the last one."""

    def __init__(self, world: World) -> None:
        super().__init__(world, "buffer")
        plan, cfg = world.plan, world.cfg
        sources, rules = list(zip(TRAIN, cfg.data.mixture, strict=True)), curriculum_config(cfg)
        mixture = PromptMixture(sources, plan.seed) if rules is None else PlannedMixture(sources, plan.seed, rules)
        heldout = HELDOUT[: plan.heldout]
        self.journal = WatchedJournal(world.disk.open(), world.judge.audit)
        with world.judge.start():
            self.core = world.core_class.open(RunSettings.from_config(cfg), mixture, heldout, "tok", self.journal, self.clock())
        self.output = OutputCommit(Watched(self.core, world.judge), MAX_BYTES, self.core.quarantine)
        self.doom = ""  # the point in the next turn at which it dies
        self._inbox: deque[tuple[bytes, bytes]] = deque()
        self._turn_due = False
        world.judge.buffer_started(self.core, self.journal)
        self.later(TICK_S, self._tick)

    def hear(self, identity: bytes, frame: bytes) -> None:
        """A frame arrives at the socket."""
        if self.alive:
            self._inbox.append((identity, frame))
            self._expect_turn()

    def _expect_turn(self) -> None:
        if not self._turn_due:
            self._turn_due = True
            self.later(TURN_S, self._turn)

    def _tick(self) -> None:
        self.later(TICK_S, self._tick)
        if not self._turn_due:
            self._turn()

    def _turn(self) -> None:
        """One round of the service's loop, with the death that is planned for it."""
        self._turn_due = False
        output, num_heard = self.output, 0
        try:
            while self._inbox and num_heard < BURST:
                output.receive(list(self._inbox.popleft()), self.clock())
                num_heard += 1
            self._maybe_die("heard", num_heard > 0)
            output.tick(self.clock())
            self._maybe_die("decided")
            frames = output.flush(self.clock())
            self._say(frames)
        except Crashed:
            self.world.kill_buffer()
        except DiskBroken as error:
            self.doom = ""
            self._say(output.last_words(f"the buffer failed: {error}", failed=True))
            self.world.kill_buffer(linger=True)
        if self._inbox and self.alive:
            self._expect_turn()

    def _say(self, frames: list[Frame]) -> None:
        for index, (identity, frame) in enumerate(frames):
            self._maybe_die("speaking", 2 * index >= len(frames))
            message = _answers.decode(frame)
            client = self.world.clients.get(identity)
            self.world.judge.said(message, identity.decode().split("/")[1:2], frame)
            self.world.trace(frame)
            if client is not None and client.link is not None and client.link.up:
                client.link.to_client.put(message)

    def _maybe_die(self, where: str, condition: bool = True) -> None:
        if self.doom == where and condition:
            self.doom = ""
            raise Crashed(where)

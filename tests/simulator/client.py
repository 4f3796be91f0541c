"""A simulated client process around the shipped Session, driven as buffer/client/client.py drives it."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from prolong.buffer.client.session import Session
from prolong.common import messages as m
from prolong.common.transport.wire import encode

from .network import Link
from .process import Process

if TYPE_CHECKING:
    from .world import World

HANDSHAKE_TIMEOUT_S = 120.0  # for the first Welcome
RECONNECT_S = 0.5


class Client(Process):
    """A process with a socket."""

    role: m.Role

    def __init__(self, world: World, name: str, life: int) -> None:
        super().__init__(world, name)
        self.life = life  # +1 with every process of that name
        self.identity = f"{self.role}/{name}/{life}".encode()
        self.session = Session(self.hello(), "simulated", self.clock(), HANDSHAKE_TIMEOUT_S, Counter())
        self.link: Link | None = None
        # frames that ZeroMQ had not sent when the connection broke: it sends them over the next one
        self._carried: list[bytes] = []
        self._wake_s = float("inf")
        self._connecting = False
        world.clients[self.identity] = self
        self.connect()

    def hello(self) -> m.Hello:
        raise NotImplementedError

    def greeting(self, **more: Any) -> m.Hello:
        return m.Hello(
            role=self.role, name=self.name, protocol=m.PROTOCOL_VERSION, tokenizer="tok", host=self.name, pid=self.life, **more
        )

    def welcomed(self, welcome: m.Welcome) -> None:
        """Every Welcome."""

    def obey(self, message: Any) -> None:
        """Act on a message that the session gives to the application."""
        raise NotImplementedError

    # --- the I/O thread ---------------------------------------------------------------------------

    def say(self, message: Any) -> None:
        self.session.submit(message, encode(message))
        self.drive()

    def hear(self, message: Any) -> None:
        wanted = self.session.receive(message, self.clock())
        if self.session.stopped is not None:
            self.exit()
            return
        if isinstance(message, m.Welcome):
            self.welcomed(message)
        elif wanted is not None:
            self.obey(wanted)
        self.drive()

    def drive(self) -> None:
        """Send frames that are due, and wake when the session has something to do."""
        if not self.alive:
            return
        session, link = self.session, self.link
        session.tick(self.clock())
        while session.out and session.is_connected and link is not None and link.up:
            link.to_buffer.put(session.out.popleft()[1])
        if session.ended is not None:
            self.exit()
            return
        wake_s = max((session.next_tick() - self.offset) / self.rate, self.world.now) + 1e-3
        if wake_s < self._wake_s:
            self._wake_s = wake_s
            self.world.at(wake_s - self.world.now, self.run, self._wake)

    def _wake(self) -> None:
        self._wake_s = float("inf")
        self.drive()

    # --- the connection ---------------------------------------------------------------------------

    def connect(self) -> None:
        """Try until a buffer listens. A stopped process connects when it goes on."""
        if not self._connecting:
            self._connecting = True
            self.later(self.world.soon(self.world.plan.latency_s), self._try_connect)

    def _try_connect(self) -> None:
        world = self.world
        if world.buffer is None or not world.buffer.alive or world.now < world.unreachable.get(self.name, 0.0):
            self.later(world.soon(RECONNECT_S), self._try_connect)
            return
        self._connecting = False
        self.link = Link(world, self)
        for frame in self._carried:
            self.link.to_buffer.put(frame)
        self._carried.clear()
        self.session.connected(self.clock())
        self.drive()

    def sever(self, *, lingers: bool = False) -> None:
        """The connection breaks; the client notices."""
        if self.link is None or not self.link.up:
            return
        lost = self.link.close(lingers=lingers)
        if self.alive:
            self._carried = lost[self.world.rng.randint(0, len(lost)) :] if self.world.chance(0.3) else []
            self.run(self._disconnected)

    def _disconnected(self) -> None:
        self.session.disconnected()
        self.connect()

    # --- the end ----------------------------------------------------------------------------------

    def exit(self) -> None:
        """End the process in order; frames that it sent arrive."""
        self.die(lingers=True)

    def die(self, *, lingers: bool | None = None) -> None:
        """Kill the process; frames that it sent may arrive or not."""
        if not self.alive:
            return
        super().die()
        self.sever(lingers=self.world.chance(0.5) if lingers is None else lingers)
        del self.world.clients[self.identity]
        if not self.world.over:
            self.world.at(self.world.soon(4.0), self.start_again)

    def start_again(self) -> None:
        """Start another process of this name, as a supervisor does."""
        raise NotImplementedError

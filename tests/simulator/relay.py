"""A simulated relay: it pulls every version, serves what it has, and takes no tickets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prolong.common import messages as m

from .audit import Violation
from .client import Client
from .pulling import Pulling, Snapshot, pulled_answer, source_of

if TYPE_CHECKING:
    from .world import World


class Relay(Client):
    """Answers messages as actor/relay.py does."""

    role = m.Role.relay

    def __init__(self, world: World, name: str, life: int) -> None:
        self.readers: m.WeightReaders | None = None
        self.pulling: Pulling
        super().__init__(world, name, life)

    def hello(self) -> m.Hello:
        self.pulling = Pulling(self, self.ended)
        return self.greeting(serves=source_of(self), transport="pull")

    def obey(self, message: Any) -> None:
        match message:
            case m.UpdateWeights():
                self.pulling.offer(message)
            case m.WeightReaders():
                self.readers = message
            case m.Tickets():
                raise Violation(f"{self.name} is a relay, and got {message}")

    def snapshot(self) -> Snapshot | None:
        # without a word of the buffer it admits nobody
        return None if self.readers is None else self.pulling.held

    def ended(self, update: m.UpdateWeights, snapshot: Snapshot | None) -> None:
        self.say(pulled_answer(update, [], "" if snapshot is not None else "nobody gave it"))

    def leave(self) -> None:
        """SIGTERM."""
        self.say(m.Leave(reason="SIGTERM"))
        self.later(0.5, self.exit)

    def start_again(self) -> None:
        self.world.relays[self.name] = Relay(self.world, self.name, self.life + 1)

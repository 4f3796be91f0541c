"""The kinds of messages, and the rules that each kind carries; the messages themselves are in `messages.py`."""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar, Generic, TypeVar, get_args, get_origin

import msgspec

from .types import Number


class Role(StrEnum):
    """The kinds of clients."""

    actor = "actor"
    learner = "learner"
    observer = "observer"
    # pulls weights and serves them to others
    relay = "relay"


class Message(msgspec.Struct, frozen=True, kw_only=True, tag=True, forbid_unknown_fields=True):
    """Base of all messages. On the wire: a map with the field `type`, the name of the class."""


class BufferMessage(Message, frozen=True):
    """A message from the buffer to a client."""

    durable_first: ClassVar[bool] = True  # it waits until the journal holds all changes that came before it

    def may_leave(self, durable_generation: int) -> bool:
        """Whether it may be sent before the next commit. `durable_generation`: the newest one that the journal holds."""
        return not self.durable_first


class Answer(BufferMessage, frozen=True):
    """The answer to a Question."""

    only_once: ClassVar[bool] = False  # without an open question of its key it is counted and dropped

    def key(self) -> tuple[int, ...]:
        """The `key` of its question."""
        return ()

    def is_of(self, generation: int) -> bool:
        """Whether it answers for this generation; answers of an earlier one are ignored by `BufferClient.ask`."""
        return True


class ClientMessage(Message, frozen=True):
    """A message from a client to the buffer."""

    senders: ClassVar[frozenset[Role]] = frozenset(Role)


class ActorMessage(ClientMessage, frozen=True):
    """A message that only actors may send."""

    senders = frozenset({Role.actor})


class WeightsMessage(ClientMessage, frozen=True):
    """A message of those that receive weights: actors and relays."""

    senders = frozenset({Role.actor, Role.relay})


class LearnerMessage(ClientMessage, frozen=True):
    """A message that only the learner may send."""

    senders = frozenset({Role.learner})


class OfGeneration(LearnerMessage, frozen=True):
    """A learner's message about its own generation; the core counts and drops those of a dead one."""

    generation: Number


A = TypeVar("A", bound=BufferMessage, covariant=True)


class Question(ClientMessage, Generic[A], frozen=True):
    """A message that the buffer answers with an A."""

    # the session sends it again after each handshake until it is answered
    asked_again: ClassVar[bool] = False
    # a newer question of the class takes the place of one that waits for its answer
    newest_only: ClassVar[bool] = True
    close_waits: ClassVar[bool] = False  # closing a client waits for the answer

    @classmethod
    def answer_type(cls) -> type[A]:
        """The class (or union of classes) of its answer, for `isinstance`."""
        question = next(base for base in vars(cls)["__orig_bases__"] if get_origin(base) is Question)
        return get_args(question)[0]

    def key(self) -> tuple[int, ...]:
        """Tells questions of one class apart: the answer has the same key."""
        return ()

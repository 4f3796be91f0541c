"""A relay's loop over the buffer's messages, with pulls that the test ends."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable

import pytest
from prolong.actor.relay import Relay, RelayInput
from prolong.common.errors import ProlongError, RunStopped
from prolong.common.messages import FromClient, Leave, WeightReaders, WeightsApplied

from tests.support.scripted_pulls import ScriptedPulls, pulled_update

pytestmark = pytest.mark.timeout(120)


class Case:
    """A relay, the messages that reach it and those that it sends."""

    def __init__(self) -> None:
        self.fed: asyncio.Queue[RelayInput | Exception] = asyncio.Queue()
        self.sent: asyncio.Queue[FromClient] = asyncio.Queue()
        self.stats: asyncio.Queue[dict[str, float]] = asyncio.Queue()
        self.pulls = ScriptedPulls()
        self.relay = Relay(self, self, self.pulls, timeout_s=1.0)

    async def take_async(self, timeout_s: float) -> RelayInput:
        message = await self.fed.get()
        if isinstance(message, Exception):
            raise message
        return message

    def send(self, message: FromClient) -> None:
        self.sent.put_nowait(message)

    def set_stats(self, stats: dict[str, float], room: int | None = None) -> None:
        self.stats.put_nowait(stats)


def told(story: Callable[[Case], Awaitable[None]]) -> BaseException | None:
    """Run a relay and the story; the error that the relay ended with, None for a good end."""

    async def tell() -> BaseException | None:
        case = Case()
        done, ended = await asyncio.gather(story(case), case.relay.run(0.01), return_exceptions=True)
        assert done is None, done
        return ended

    return asyncio.run(tell())


async def one_version(case: Case) -> None:
    case.fed.put_nowait(WeightReaders(num_pullers=2, keys=["k"]))
    case.fed.put_nowait(pulled_update(4))
    await case.pulls.asked.get()
    case.fed.put_nowait(pulled_update(5))
    case.fed.put_nowait(pulled_update(6))
    case.pulls.end()
    applied = await case.sent.get()
    assert isinstance(applied, WeightsApplied)
    assert (applied.version, applied.epoch, applied.checksums, applied.num_bytes) == (4, -1, [], 5)
    assert await case.pulls.asked.get() == 6
    case.pulls.end()
    await case.sent.get()
    while (await case.stats.get()).get("pulls") != 2:
        pass
    assert [readers.keys for readers in case.pulls.readers] == [["k"]]
    assert (await case.stats.get())["weights/sent_bytes"] == 7
    case.fed.put_nowait(RunStopped("over"))


def test_a_relay_pulls_the_newest_version_and_acknowledges_it_without_checksums() -> None:
    ended = told(one_version)
    assert isinstance(ended, BaseExceptionGroup)
    assert ended.subgroup(RunStopped) is not None


async def sigterm(case: Case) -> None:
    case.fed.put_nowait(pulled_update(4))
    await case.pulls.asked.get()
    os.kill(os.getpid(), signal.SIGTERM)
    assert isinstance(await case.sent.get(), Leave)
    assert case.sent.empty()
    assert case.pulls.num_cancelled == 1


def test_a_relay_leaves_at_once_in_the_middle_of_a_pull() -> None:
    assert told(sigterm) is None


async def broken(case: Case) -> None:
    await case.stats.get()
    case.pulls.has_failed = True


def test_a_relay_that_serves_nobody_any_more_ends() -> None:
    """Else it would stay the source that the buffer names to its actors."""
    ended = told(broken)
    assert isinstance(ended, BaseExceptionGroup)
    assert ended.subgroup(ProlongError) is not None

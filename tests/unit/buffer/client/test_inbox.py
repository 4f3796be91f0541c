"""An inbox alone; test_client.py has it behind a socket."""

import asyncio

import pytest
from prolong.buffer.client.inbox import Inbox
from prolong.common.messages import SyncRequested


def test_a_cancellation_in_the_moment_of_a_message_is_kept_and_so_is_the_message():
    """An actor that leaves cancels its loop while an acknowledgement arrives: a loop that went on would never end."""

    async def cancel_at_once() -> None:
        inbox = Inbox(SyncRequested)
        taking = asyncio.create_task(inbox.take_async(60.0))
        await asyncio.sleep(0)
        inbox.offer(SyncRequested(reason="now"))
        await asyncio.sleep(0)  # the waiting future is done, the task has not run yet
        taking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await taking
        assert inbox.try_take() == SyncRequested(reason="now")

    asyncio.run(cancel_at_once())

"""Notices that a process of vLLM's engine ended: vLLM itself leaves calls to it pending forever."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

from ....common.errors import ProlongError

T = TypeVar("T")


class ProcessWatch:
    """Watches processes through the kernel, in the running event loop."""

    def __init__(self) -> None:
        self._dead = asyncio.Event()  # one of them ended
        self._descriptors: list[int] = []  # pidfds

    def start(self, pids: Iterable[int]) -> None:
        loop = asyncio.get_running_loop()
        for pid in pids:
            try:
                descriptor = os.pidfd_open(pid)
            except ProcessLookupError:
                self._dead.set()
                continue
            self._descriptors.append(descriptor)
            loop.add_reader(descriptor, self._died)

    def _died(self) -> None:
        self._dead.set()
        self.close()

    def close(self) -> None:
        """Stop watching."""
        for descriptor in self._descriptors:
            asyncio.get_running_loop().remove_reader(descriptor)
            os.close(descriptor)
        self._descriptors.clear()

    async def unless_dead(self, call: Coroutine[Any, Any, T]) -> T:
        """The result of `call`. Raises ProlongError as soon as a watched process has ended."""
        calling, dying = asyncio.ensure_future(call), asyncio.ensure_future(self._dead.wait())
        try:
            await asyncio.wait([calling, dying], return_when=asyncio.FIRST_COMPLETED)
            if self._dead.is_set():
                raise ProlongError("vLLM's engine process ended in the middle of a call; the kernel's log may say why")
            return calling.result()
        finally:
            calling.cancel()
            dying.cancel()

"""A pool that shares its jobs between its own workers and `prolong verifier` processes on other hosts.

    verify() --> own workers, or the host with the fewest jobs per worker --Judge--> prolong verifier --Judged--> verdict
                     ^---- a host that is gone, silent, or does not know the verifier: judged here

Only names and texts go out; the host finds the verifier in its own configuration. A job ends in one verdict: the late verdict
of a host that was given up is counted and dropped.
"""

from __future__ import annotations

import itertools
import logging
from collections import Counter
from collections.abc import Sequence

import zmq.asyncio

from ...common.errors import ConfigError
from ...common.transport.keys import load_client_keys
from ...common.transport.sockets import check_address
from ...common.types import FinishReason, Prompt, Verdict
from .host_messages import Judge
from .local_pool import LocalPool, encodable
from .remote import HostLost, RemoteHost

BUSY_FACTOR = 10  # wall time on a busy host, per second of CPU time that an answer grants to a program
REMOTE_SLACK_S = 30.0  # on top of three deadlines of a job, before it is judged here instead

log = logging.getLogger(__name__)


class SharedPool:
    """A pool with its own workers and those of other hosts, which may come and go. See VerifierPool in pool.py."""

    def __init__(self, local: LocalPool, addresses: Sequence[str], *, keys: str = "") -> None:
        """keys: a folder made by `prolong keys`; empty on loopback. Raises ConfigError for a bad address or bad keys."""
        self._local, self._addresses, self._keys = local, addresses, load_client_keys(keys)
        for address in addresses:
            try:
                check_address(address, has_keys=self._keys is not None)
            except ConfigError as error:
                raise ConfigError(f"verifiers.hosts with verifiers.keys = {keys!r}: {error}") from error
        self._hosts: list[RemoteHost] = []
        self._numbers = itertools.count()
        self._num_here = 0  # jobs in the hands of the own workers

    @property
    def counters(self) -> Counter[str]:
        return self._local.counters

    @property
    def broken(self) -> bool:
        return self._local.broken

    @property
    def hosts(self) -> Sequence[RemoteHost]:
        """The hosts in the order of their addresses, attached or not; empty before `start`."""
        return self._hosts

    async def start(self) -> None:
        """Start the own workers and connect to the hosts; waits for neither."""
        await self._local.start()
        self._context = zmq.asyncio.Context()
        self._hosts = [RemoteHost.connect(self._context, address, self._keys, self.counters) for address in self._addresses]

    async def usable(self) -> None:
        """Wait until the first own worker is ready."""
        await self._local.usable()

    async def verify(
        self, prompt: Prompt, completion: str, finish_reason: FinishReason, completion_ids: bytes = b""
    ) -> Verdict:
        """Judge one completion, here or on a host: see VerifierPool. A host gets three deadlines, REMOTE_SLACK_S, and what
        programs may take.
        """
        self._local.check(prompt.verifier)
        host = self._less_loaded_host(prompt.verifier)
        if host is not None and finish_reason is not FinishReason.abort:
            job = Judge(
                number=next(self._numbers),
                prompt=prompt,
                completion=encodable(completion),
                finish_reason=finish_reason,
                completion_ids=completion_ids if self._local.is_own(prompt.verifier) else b"",
            )
            try:
                granted_s = self._local.granted_s(prompt)
                verdict = await host.judge(job, 3 * self._local.timeout_s + REMOTE_SLACK_S + BUSY_FACTOR * granted_s)
                self.counters["hosts/verdicts"] += 1
                return verdict
            except (HostLost, TimeoutError) as error:
                self.counters["hosts/judged_here_instead"] += 1
                log.debug("judged here instead: %s", error or "no verdict in time")
        self._num_here += 1
        try:
            return await self._local.verify(prompt, completion, finish_reason, completion_ids)
        finally:
            self._num_here -= 1

    def _less_loaded_host(self, verifier: str) -> RemoteHost | None:
        """The least loaded host for this verifier, if its load is below that of the own workers."""
        able = [host for host in self._hosts if host.may_take(verifier)]
        best = min(able, key=lambda host: host.load, default=None)
        return best if best is not None and best.load < self._num_here / self._local.num_workers else None

    async def close(self) -> None:
        for host in self._hosts:
            await host.close()
        if self._hosts:
            self._context.term()
        self._hosts = []
        await self._local.close()

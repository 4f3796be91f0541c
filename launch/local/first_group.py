"""When to give up on a run that has not scored a group yet: a model that loads slowly is no fault, a run that stands still is.

The clock of `launch.first_group_s` begins anew with every sign of life: while no actor is ready, that the run's processes work
(a large model is loaded); afterwards, that rollouts are generated, unless they are refused or returned.
"""

from __future__ import annotations

from ...common.messages import Status
from ...common.types import TicketState

WORKING = 0.1  # share of a core above which the processes are at work, and do not just poll
# so often `launch.first_group_s` may pass before an actor is ready: a process may also be busy with waiting
LOADING_LIMITS = 20
SCORED = (TicketState.stored, TicketState.batched, TicketState.trained, TicketState.filtered)

# counters of work that came to nothing: it would go on for ever
IN_VAIN = ("buffer/flawed_", "buffer/failed_groups", "buffer/returned", "buffer/mismatched_groups", "buffer/lost_leases")

Signs = tuple[object, ...]


class FirstGroup:
    """Waits for the first group of one start of a run.

    Example: watch = FirstGroup(300.0, now); then again and again: reason = watch.judge(now, status, cpu_s)
    """

    def __init__(self, limit_s: float, now: float) -> None:
        self._limit_s, self._started_s = limit_s, now
        self._alive_s = self._judged_s = now  # of the last sign of life, and of the last call
        self._cpu_s = 0.0
        self._signs: Signs = ()
        self._in_vain = 0
        self._scored: int | None = None  # groups that were scored before this start
        self._ready = False  # whether an actor was ready to generate
        self.over = False  # a group was scored

    def judge(self, now: float, status: Status | None, cpu_s: float) -> str:
        """Why the run should end now; empty while it may go on.

        status: of the buffer, None while it does not answer. cpu_s: used so far by the living processes of the run.
        """
        signs = self._take(status) if status is not None else self._signs
        worked = not self._ready and cpu_s - self._cpu_s > WORKING * (now - self._judged_s)
        if signs != self._signs or worked:
            self._alive_s = now
        self._signs, self._cpu_s, self._judged_s = signs, cpu_s, now
        if self.over:
            return ""
        if now - self._alive_s > self._limit_s:
            return self._standing_still()
        if not self._ready and now - self._started_s > LOADING_LIMITS * self._limit_s:
            waited = f"{LOADING_LIMITS} times launch.first_group_s = {self._limit_s:.0f} s"
            return f"no actor was ready after {waited}; look at its log, or raise launch.first_group_s"
        return ""

    def _take(self, status: Status) -> Signs:
        """Note what a status says; returns what changes as long as the run is alive."""
        scored = sum(status.ledger.get(state, 0) for state in SCORED)
        self._scored = scored if self._scored is None else self._scored
        self.over = self.over or scored > self._scored
        states = sorted((name, peer.get("state", "")) for name, peer in status.peers.items())
        self._ready = self._ready or any(state == "ready" for _, state in states)
        in_vain = sum(count for name, count in status.counters.items() if name.startswith(IN_VAIN))
        failed, self._in_vain = in_vain > self._in_vain, in_vain
        if failed:
            return self._signs
        return (states, [peer.get("generated_rollouts", 0) for peer in status.peers.values()], len(status.validation))

    def _standing_still(self) -> str:
        if self._ready:
            stood = "no group was scored, and no rollout generated,"
        else:
            stood = "no actor was ready, and no process did anything,"
        return f"{stood} for {self._limit_s:.0f} s (launch.first_group_s)"

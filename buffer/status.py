"""What `prolong status` shows of a living buffer."""

from __future__ import annotations

from ..common.messages import Role
from .dispatch import Dispatch
from .membership import Membership
from .peers import Peer


def describe(peer: Peer, now: float, generation: int, membership: Membership, dispatch: Dispatch) -> dict[str, float | str]:
    """One client: role, state, version, work in flight, silence, and the numbers that it reports itself."""
    about: dict[str, float | str] = {
        "role": peer.role.value,
        "state": "connected",
        "host": peer.hello.host,
        "pid": float(peer.hello.pid),
        "silence_s": now - peer.seen_s,
    }
    if peer.role is Role.actor:
        version = membership.version_of(peer.name, generation)
        waits = "cordoned" if membership.is_cordoned(peer.name) else "waits for weights"
        about |= {"state": waits if version is None else "ready", "version": float(-1 if version is None else version)}
        about |= {"leases": float(len(dispatch.leases.held_by(peer.name)))}
        about |= {"rollouts": float(dispatch.leases.rollouts(peer.name)), "capacity": float(peer.hello.capacity)}
    return about | peer.stats

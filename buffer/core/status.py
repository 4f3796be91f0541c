"""What `prolong status` shows of a living buffer."""

from __future__ import annotations

from ...common.messages import Role
from .dispatch import Dispatch
from .membership import Membership
from .peers import Peer, Peers

MAX_QUARANTINED = 20  # the newest, named in a status


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
        waits = "leaving" if peer.leaving else "cordoned" if membership.is_cordoned(peer.name) else "waits for weights"
        about |= {"state": waits if version is None else "ready", "version": float(-1 if version is None else version)}
        about |= {"leases": float(len(dispatch.leases.held_by(peer.name)))}
        about |= {"rollouts": float(dispatch.leases.rollouts(peer.name)), "capacity": float(peer.hello.capacity)}
    return about | peer.stats


def describe_quarantined(held: dict[bytes, float], peers: Peers, described: dict[str, dict[str, float | str]]) -> None:
    """Say in `described` who is not listened to: senders of malformed frames, by name if they have one, else by routing id."""
    for sender, left_s in list(held.items())[-MAX_QUARANTINED:]:
        peer = peers.find(sender)
        name = f"sender {_printable(sender)}" if peer is None else peer.name
        described[name] = described.get(name, {"role": ""}) | {"state": "quarantined", "quarantine_s": left_s}


def _printable(sender: bytes) -> str:
    text = sender[:80].decode(errors="replace")
    return text if text.isprintable() and "\ufffd" not in text else sender[:80].hex()

"""The status of a living buffer, as `prolong status` shows it."""

from __future__ import annotations

from itertools import islice

from ...common.messages import LearnerPace, Role, Status
from ...common.types import PULL
from .peers import Peer, Peers
from .run_state import RunState
from .settings import RunSettings

# the newest ones, named in a status
MAX_QUARANTINED = 20
# clients in a status
MAX_PEERS = 200

About = dict[str, float | str]


def make_status(
    settings: RunSettings,
    run: RunState,
    peers: Peers,
    quarantined: dict[bytes, float],
    waits_for: str,
    pace: LearnerPace,
    now: float,
) -> Status:
    """`quarantined`: senders whose frames are dropped, by routing id, with the seconds that are left."""
    ledger = run.store.ledger
    about = {peer.name: _about(peer, run, now) for peer in _shown(run, peers)}
    _add_quarantined(about, peers, quarantined)
    return Status(
        run=settings.run,
        generation=run.store.generation,
        version=run.store.version,
        steps=settings.steps,
        ledger=ledger.as_dict(),
        balanced=ledger.balanced,
        eta=run.store.contract.eta,
        eta_why="" if run.eta is None else run.eta.why,
        peers=about,
        num_peers=peers.num_peers,
        waits_for=waits_for,
        pace=pace,
        counters=dict(run.counters.total),
        validation=list(run.validation.scores),
    )


def _shown(run: RunState, peers: Peers) -> list[Peer]:
    """The clients that a status tells of. Of thousands: those that are no actors, lack weights, lag or are silent; then any."""
    if peers.num_peers <= MAX_PEERS:
        return peers.all()
    generation, few = run.store.generation, MAX_PEERS // 4
    concerning: list[str] = []
    for version in (-1, run.store.version):
        for side in (run.membership, run.pullers):
            concerning += side.lacking(generation, version)[:few]
    others = [peer.name for peer in peers.all() if peer.role is not Role.actor][:few]
    silent = [peer.name for peer in peers.longest_silent(few)]
    names = dict.fromkeys([*others, *concerning, *silent, *(actor.name for actor in peers.actors())])
    found = (peers.named(name) for name in islice(names, MAX_PEERS))
    return [peer for peer in found if peer is not None]


def _about(peer: Peer, run: RunState, now: float) -> About:
    """One client: role, state, version, work in flight, silence, and the facts and numbers that it reports itself."""
    about: About = {
        "role": peer.role.value,
        "state": "connected",
        "silence_s": now - peer.seen_s,
    }
    if peer.role in (Role.actor, Role.relay):
        about |= _weights_of(peer, run)
    if peer.role is Role.actor:
        about["leases"] = float(len(run.leases.held_by(peer.name)))
        about["rollouts"] = float(run.leases.rollouts(peer.name))
        about["capacity"] = float(peer.hello.capacity)
        about["room"] = float(peer.room)
        about |= {"pool": peer.hello.pool} if peer.hello.pool else {}
    return about | peer.facts | peer.stats


def _weights_of(peer: Peer, run: RunState) -> About:
    """The weights of an actor or relay: which it holds, how far behind it is, what it received and from whom."""
    version, lag, received = run.version_of(peer.name), run.lag_of(peer.name), peer.weights
    about: About = {
        "state": _waits_for(peer, run) if version is None else "ready",
        "version": float(-1 if version is None else version),
        "transport": PULL if peer.role is Role.relay else peer.hello.transport,
        "num_updates": float(received.num_updates),
        "update_bytes": float(received.num_bytes),
        "update_s": received.seconds,
        "updates_bytes": float(received.total_bytes),
        "updates_s": received.total_s,
    }
    if lag is not None:
        about["lag"] = float(lag)
    puller = run.pullers.find(peer.name)
    if puller is None:
        return about
    if version is not None and puller.is_behind:
        about["state"] = "pulls"
    return about | {"sources": ", ".join(puller.told_sources), "weights_error": puller.error}


def _waits_for(peer: Peer, run: RunState) -> str:
    """The state of an actor that gets no tickets, or of a relay that has nothing to serve."""
    if peer.leaving:
        return "leaving"
    puller = run.pullers.find(peer.name)
    if run.membership.is_cordoned(peer.name) or (puller is not None and puller.is_wrong):
        return "cordoned"
    return "waits for weights"


def _add_quarantined(about: dict[str, About], peers: Peers, quarantined: dict[bytes, float]) -> None:
    """Mark senders of malformed frames, by their client's name if they have one, else by routing id."""
    for sender, left_s in list(quarantined.items())[-MAX_QUARANTINED:]:
        peer = peers.find(sender)
        name = f"sender {_printable(sender)}" if peer is None else peer.name
        about[name] = about.get(name, {"role": ""}) | {"state": "quarantined", "quarantine_s": left_s}


def _printable(sender: bytes) -> str:
    text = sender[:80].decode(errors="replace")
    return text if text.isprintable() and "\ufffd" not in text else sender[:80].hex()

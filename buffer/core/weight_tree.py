"""Who pulls weights from whom: a tree with the learner at its root.

    learner ──► relay-0 ──► actor-0, actor-1, ...
           └──► relay-1 ──► relay-2 ──► actor-8, ...

Relays are placed first, then actors, each in order of joining, and each below one that was placed before it: so there is no
cycle. Each goes to a server on its own host that has room for it, if there is one, else to the shallowest with room, and among
those to the one with the fewest others below it. Actors leave the learner to the relays, if there are any, unless they run on
its host. Where no server has room, the one with the fewest takes one more. Of servers that are equally deep, a puller stays
with the one that it had: it would have to give up what it is pulling there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

FAN_OUT = 8  # pullers below one server, as long as another has room
ROOT = ""  # the name of the learner in the tree


class PullerPlace(NamedTuple):
    """One puller."""

    name: str
    host: str
    is_relay: bool
    serves: bool  # others may be placed below it


@dataclass(slots=True)
class _Server:
    """A place that others can pull from."""

    name: str
    host: str
    depth: int
    is_relay: bool = False
    num_below: int = 0


def weight_tree(pullers: Sequence[PullerPlace], learner_host: str, before: Mapping[str, str] | None = None) -> dict[str, str]:
    """The parent of every puller, by name; ROOT for those that pull from the learner. `pullers`: in order of joining.

    `before`: the last tree.
    """
    before = before or {}
    root = _Server(ROOT, learner_host, depth=0)
    servers = [root]
    relays_serve = any(puller.is_relay and puller.serves for puller in pullers)
    parents: dict[str, str] = {}
    for puller in sorted(pullers, key=lambda puller: not puller.is_relay):
        may_ask_learner = puller.is_relay or not relays_serve or _is_same_host(puller.host, learner_host)
        parent = _choose(servers if may_ask_learner else servers[1:], puller.host, before.get(puller.name))
        parent.num_below += 1
        parents[puller.name] = parent.name
        if puller.serves:
            servers.append(_Server(puller.name, puller.host, parent.depth + 1, puller.is_relay))
    return parents


def _choose(servers: Sequence[_Server], host: str, before: str | None) -> _Server:
    """The best server; of equals the one from `before`, else the one that was placed first."""
    roomy = [server for server in servers if server.num_below < FAN_OUT]
    if not roomy:
        return min(servers, key=lambda server: (server.num_below, server.name != before))
    near = [server for server in roomy if _is_same_host(server.host, host)]
    return min(near or roomy, key=lambda server: (server.depth, server.name != before, server.num_below))


def _is_same_host(one: str, other: str) -> bool:
    # machines that nobody gave a name all go by this one
    return one == other and not one.startswith("localhost")


def path_to_learner(name: str, parents: dict[str, str]) -> list[str]:
    """The servers above a puller, its own parent first, without the learner."""
    path: list[str] = []
    while (name := parents[name]) != ROOT:
        path.append(name)
    return path

"""Who pulls weights from whom: a tree with the learner at its root.

    learner ──► relay-0 ──► actor-0, actor-1, ...
           └──► relay-1 ──► relay-2 ──► actor-8, ...

Relays are placed first, then actors, each in order of joining, and each below one that was placed before it: so there is no
cycle. Each goes to a server on its own host that has room for it, if there is one, else to the shallowest with room, and among
those to the one with the fewest others below it. Actors leave the learner to the relays, if there are any, unless they run on
its host. Where no server has room, the one with the fewest takes one more. Of servers that are equally deep, a puller stays
with the one that it had: it would have to give up what it is pulling there.

A tree is planted for all pullers when what they may serve has changed, in time O(pullers x log servers). An actor that joins is
placed last, as it would be then, and one that leaves gives its place to the next: with thousands of them both must be cheap.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
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


@dataclass(slots=True, eq=False)
class _Server:
    """A place that others can pull from."""

    name: str
    host: str
    depth: int
    order: int  # of its placing
    num_below: int = 0


class _ServerSet:
    """Servers by depth, each depth by the number below and the order of placing. Entries of another number are skipped."""

    def __init__(self) -> None:
        self._members: dict[str, _Server] = {}
        self._roomy: dict[int, list[tuple[int, int, str]]] = {}
        self._all: list[tuple[int, int, str]] = []

    def note(self, server: _Server) -> None:
        """A server is placed, or has another number below it."""
        self._members[server.name] = server
        entry = (server.num_below, server.order, server.name)
        heapq.heappush(self._all, entry)
        if server.num_below < FAN_OUT:
            heapq.heappush(self._roomy.setdefault(server.depth, []), entry)

    def shallowest(self, before: str | None) -> _Server | None:
        """The best server that has room: `before` if it is as shallow as any."""
        for depth in sorted(self._roomy):
            best = self._top(self._roomy[depth])
            if best is None:
                del self._roomy[depth]
                continue
            former = self._members.get(before or ROOT)
            stays = former is not None and former.num_below < FAN_OUT and former.depth == depth
            return former if stays else best
        return None

    def emptiest(self, before: str | None) -> _Server | None:
        """The server with the fewest below it: `before` if none has fewer."""
        best, former = self._top(self._all), self._members.get(before or ROOT)
        return former if best is not None and former is not None and former.num_below == best.num_below else best

    def _top(self, heap: list[tuple[int, int, str]]) -> _Server | None:
        while heap:
            num_below, _, name = heap[0]
            if self._members[name].num_below == num_below:
                return self._members[name]
            heapq.heappop(heap)
        return None


class WeightTree:
    """The parent of every puller."""

    def __init__(self) -> None:
        self.parents: dict[str, str] = {}
        self._is_planted = False
        self._plant_nothing("")

    def _plant_nothing(self, learner_host: str) -> None:
        self._learner_host, self._relays_serve = learner_host, False
        self._root = _Server(ROOT, learner_host, depth=0, order=0)
        self._servers: dict[str, _Server] = {}
        # of all hosts, without the learner, and of each
        self._anywhere = _ServerSet()
        self._by_host: dict[str, _ServerSet] = {}

    def forget(self) -> None:
        """Something about the servers changed: the next `plant` makes another tree."""
        self._is_planted = False

    def plant(self, places: Callable[[], Sequence[PullerPlace]], learner_host: str) -> None:
        """Make the tree of these pullers, in order of joining, unless it is made."""
        if self._is_planted and learner_host == self._learner_host:
            return
        before, self.parents = self.parents, {}
        self._plant_nothing(learner_host)
        pullers = places()
        self._relays_serve = any(puller.is_relay and puller.serves for puller in pullers)
        for puller in sorted(pullers, key=lambda puller: not puller.is_relay):
            self._put(puller, before.get(puller.name))
        self._is_planted = True

    def add(self, puller: PullerPlace) -> None:
        """A puller joined after all others."""
        if puller.is_relay or puller.name in self.parents:
            self.forget()
        elif self._is_planted:
            self._put(puller, None)

    def remove(self, name: str) -> None:
        """A puller is gone."""
        if name in self._servers:
            self.forget()
        parent = self.parents.pop(name, None)
        if parent is not None and self._is_planted:
            self._count(self._root if parent == ROOT else self._servers[parent], -1)

    def _put(self, puller: PullerPlace, before: str | None) -> None:
        may_ask_learner = puller.is_relay or not self._relays_serve or _is_same_host(puller.host, self._learner_host)
        parent = self._choose(puller.host, before, may_ask_learner=may_ask_learner)
        self._count(parent, 1)
        self.parents[puller.name] = parent.name
        if puller.serves:
            server = _Server(puller.name, puller.host, parent.depth + 1, order=len(self._servers) + 1)
            self._servers[puller.name] = server
            self._count(server, 0)

    def _count(self, server: _Server, more: int) -> None:
        server.num_below += more
        if server is not self._root:
            self._anywhere.note(server)
            self._by_host.setdefault(server.host, _ServerSet()).note(server)

    def _choose(self, host: str, before: str | None, *, may_ask_learner: bool) -> _Server:
        """The best server; of equals the one from `before`, else the one that was placed first."""
        root = self._root if may_ask_learner else None
        roomy_root = root if root is not None and root.num_below < FAN_OUT else None
        if _is_same_host(host, host):
            if roomy_root is not None and _is_same_host(host, roomy_root.host):
                return roomy_root
            near = self._by_host.get(host)
            chosen = None if near is None else near.shallowest(before)
            if chosen is not None:
                return chosen
        chosen = roomy_root or self._anywhere.shallowest(before)
        if chosen is not None:
            return chosen
        emptiest = self._anywhere.emptiest(before)
        if root is None or emptiest is None:
            chosen = root or emptiest
            assert chosen is not None, "relays serve, and none of them was placed"
            return chosen
        is_less = root.num_below < emptiest.num_below
        return root if is_less or (root.num_below == emptiest.num_below and emptiest.name != before) else emptiest

    def path_to_learner(self, name: str) -> list[str]:
        """The servers above a puller, its own parent first, without the learner."""
        path: list[str] = []
        while (name := self.parents[name]) != ROOT:
            path.append(name)
        return path


def weight_tree(pullers: Sequence[PullerPlace], learner_host: str, before: Mapping[str, str] | None = None) -> dict[str, str]:
    """The parent of every puller, by name; ROOT for those that pull from the learner. `pullers`: in order of joining.

    `before`: the last tree.
    """
    tree = WeightTree()
    tree.parents = dict(before or {})
    tree.plant(lambda: pullers, learner_host)
    return tree.parents


def _is_same_host(one: str, other: str) -> bool:
    # machines that nobody gave a name all go by this one
    return one == other and not one.startswith("localhost")

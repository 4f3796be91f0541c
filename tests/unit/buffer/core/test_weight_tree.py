"""The tree of pullers: no cycle, a bounded number below each server, and the learner at its root."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence

from hypothesis import given, settings
from hypothesis import strategies as st
from prolong.buffer.core.weight_tree import FAN_OUT, ROOT, PullerPlace, WeightTree, weight_tree


def actor(index: int, *, host: str = "", serves: bool = False) -> PullerPlace:
    return PullerPlace(f"actor-{index}", host or f"host-{index}", is_relay=False, serves=serves)


def relay(index: int, *, host: str = "", serves: bool = True) -> PullerPlace:
    return PullerPlace(f"relay-{index}", host or f"relay-host-{index}", is_relay=True, serves=serves)


def path_to_learner(name: str, parents: Mapping[str, str]) -> list[str]:
    path: list[str] = []
    while (name := parents[name]) != ROOT:
        path.append(name)
    return path


def naive_tree(pullers: Sequence[PullerPlace], learner_host: str, before: Mapping[str, str]) -> dict[str, str]:
    """The rule as the docstring says it: every puller looks at every server."""
    named = {host for host in [learner_host, *(puller.host for puller in pullers)] if not host.startswith("localhost")}
    depth, below, hosts = {ROOT: 0}, Counter({ROOT: 0}), {ROOT: learner_host}
    relays_serve = any(puller.is_relay and puller.serves for puller in pullers)
    parents: dict[str, str] = {}
    for puller in sorted(pullers, key=lambda puller: not puller.is_relay):
        may_ask = puller.is_relay or not relays_serve or (puller.host in named and puller.host == learner_host)
        servers = [name for name in depth if name != ROOT or may_ask]
        roomy = [name for name in servers if below[name] < FAN_OUT]
        near = [name for name in roomy if hosts[name] == puller.host and puller.host in named]
        stays = before.get(puller.name)
        if roomy:
            chosen = min(near or roomy, key=lambda name: (depth[name], name != stays, below[name]))
        else:
            chosen = min(servers, key=lambda name: (below[name], name != stays))
        parents[puller.name] = chosen
        below[chosen] += 1
        if puller.serves:
            depth[puller.name], hosts[puller.name] = depth[chosen] + 1, puller.host
    return parents


PULLERS = st.lists(
    st.tuples(st.integers(0, 40), st.sampled_from(["gpu", "a", "b", "c", "localhost"]), st.booleans(), st.booleans()),
    max_size=60,
    unique_by=lambda drawn: drawn[0],
)


def places(drawn: list[tuple[int, str, bool, bool]]) -> list[PullerPlace]:
    return [PullerPlace(f"p-{index}", host, is_relay, serves) for index, host, is_relay, serves in drawn]


@settings(max_examples=300, deadline=None)
@given(st.lists(PULLERS, min_size=1, max_size=3), st.sampled_from(["gpu", "localhost"]))
def test_the_tree_is_that_of_the_rule_whatever_was_there_before(rounds: list, learner_host: str) -> None:
    before: dict[str, str] = {}
    for drawn in rounds:
        expected = naive_tree(places(drawn), learner_host, before)
        assert weight_tree(places(drawn), learner_host, before) == expected
        before = expected


@settings(max_examples=300, deadline=None)
@given(PULLERS, st.integers(0, 60))
def test_actors_that_join_one_after_another_stand_where_a_tree_for_all_would_place_them(drawn: list, first: int) -> None:
    pullers = sorted(places(drawn), key=lambda puller: not puller.is_relay)
    first = max(first, sum(puller.is_relay for puller in pullers))
    tree = WeightTree()
    tree.plant(lambda: pullers[:first], "gpu")
    for number, puller in enumerate(pullers[first:], first + 1):
        tree.add(puller)
        tree.plant(lambda number=number: pullers[:number], "gpu")
        assert tree.parents == naive_tree(pullers[:number], "gpu", {})


def test_who_leaves_gives_its_place_to_the_next_and_moves_nobody() -> None:
    tree, pullers = WeightTree(), [relay(0), relay(1), *(actor(i) for i in range(6))]
    tree.plant(lambda: pullers, "gpu")
    before = dict(tree.parents)
    tree.remove("actor-2")
    tree.add(actor(9))
    tree.plant(lambda: [], "gpu")
    assert tree.parents == {name: parent for name, parent in before.items() if name != "actor-2"} | {
        "actor-9": before["actor-2"]
    }


def test_without_servers_everybody_pulls_from_the_learner() -> None:
    assert set(weight_tree([actor(i) for i in range(20)], "gpu").values()) == {ROOT}


def test_actors_leave_the_learner_to_the_relays_and_share_them_evenly() -> None:
    parents = weight_tree([*(actor(i) for i in range(10)), relay(0), relay(1)], "gpu")
    assert (parents["relay-0"], parents["relay-1"]) == (ROOT, ROOT)
    assert Counter(parents[f"actor-{i}"] for i in range(10)) == {"relay-0": 5, "relay-1": 5}


def test_one_relay_carries_more_than_its_share_rather_than_the_learner() -> None:
    parents = weight_tree([relay(0), *(actor(i) for i in range(20))], "gpu")
    assert Counter(parents.values()) == {ROOT: 1, "relay-0": 20}


def test_the_ninth_relay_pulls_from_another_relay() -> None:
    parents = weight_tree([relay(i) for i in range(9)], "gpu")
    assert Counter(parents.values()) == {ROOT: 8, "relay-0": 1}


def test_actors_that_serve_take_over_from_a_learner_that_has_enough() -> None:
    parents = weight_tree([actor(i, serves=True) for i in range(FAN_OUT + 3)], "gpu")
    assert Counter(parents.values()) == {ROOT: FAN_OUT, "actor-0": 1, "actor-1": 1, "actor-2": 1}


def test_one_download_for_each_host_where_an_actor_serves() -> None:
    pullers = [actor(i, host=f"box-{i // 4}", serves=i % 4 == 0) for i in range(8)]
    parents = weight_tree(pullers, "gpu")
    assert [parents[f"actor-{i}"] for i in range(8)] == [ROOT, *["actor-0"] * 3, ROOT, *["actor-4"] * 3]


def test_an_actor_on_the_learners_own_host_needs_no_relay() -> None:
    assert weight_tree([relay(0), actor(0, host="gpu"), actor(1)], "gpu") == {
        "relay-0": ROOT,
        "actor-0": ROOT,
        "actor-1": "relay-0",
    }


def test_machines_without_a_name_are_not_taken_for_one() -> None:
    pullers = [relay(0, host="localhost"), *(actor(i, host="localhost") for i in range(3))]
    assert Counter(weight_tree(pullers, "localhost").values()) == {ROOT: 1, "relay-0": 3}


def test_a_relay_that_joins_late_or_again_takes_the_actors_from_the_learner() -> None:
    actors = [actor(i) for i in range(4)]
    before = weight_tree(actors, "gpu")
    assert set(before.values()) == {ROOT}
    assert weight_tree([*actors, relay(0)], "gpu", before) == {"relay-0": ROOT} | dict.fromkeys(before, "relay-0")


def test_a_puller_stays_where_it_was_while_others_come_and_go() -> None:
    pullers = [relay(0), relay(1), *(actor(i) for i in range(6))]
    before = weight_tree(pullers, "gpu")
    for gone in pullers[2:]:
        rest = [puller for puller in pullers if puller is not gone]
        assert weight_tree(rest, "gpu", before) == {name: parent for name, parent in before.items() if name != gone.name}
    after = weight_tree([*pullers, relay(2)], "gpu", before)
    assert after == before | {"relay-2": ROOT}
    assert weight_tree([*pullers, relay(2), actor(9)], "gpu", after)["actor-9"] == "relay-2"
    rest = weight_tree([relay(1), *(actor(i) for i in range(6))], "gpu", before)
    assert set(rest.values()) == {ROOT, "relay-1"}, "those of a relay that left move"


def test_a_server_that_cannot_be_relied_on_has_nobody_below_it() -> None:
    parents = weight_tree([relay(0, serves=False), relay(1), actor(0)], "gpu")
    assert parents == {"relay-0": ROOT, "relay-1": ROOT, "actor-0": "relay-1"}
    assert weight_tree([relay(0, serves=False), actor(0)], "gpu")["actor-0"] == ROOT


def test_every_path_ends_at_the_learner_and_few_wait_for_one_server() -> None:
    rng = random.Random(7)
    parents: dict[str, str] = {}
    for _ in range(300):
        pullers = [actor(i, host=f"box-{rng.randrange(30)}", serves=rng.random() < 0.4) for i in range(rng.randrange(60))]
        pullers += [relay(i, host=f"box-{rng.randrange(30)}") for i in range(rng.randrange(20))]
        rng.shuffle(pullers)
        before, parents = parents, weight_tree(pullers, "gpu", parents)
        assert parents == weight_tree(pullers, "gpu", before)
        assert parents.keys() == {puller.name for puller in pullers}
        for puller in pullers:
            path = path_to_learner(puller.name, parents)
            assert len(path) == len(set(path)), "a cycle"
            assert puller.name not in path
        num_servers = sum(puller.serves for puller in pullers)
        below = Counter(parents.values())
        bound = max(FAN_OUT, -(-len(pullers) // max(num_servers, 1)))
        assert all(count <= bound for name, count in below.items() if name != ROOT), below
        if any(puller.is_relay for puller in pullers):
            assert below[ROOT] <= FAN_OUT

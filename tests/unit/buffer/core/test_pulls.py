"""Who holds which version, who is told to pull what, and from whom."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prolong.buffer.core.pulls import Pullers, PullOutcome
from prolong.common.messages import PROTOCOL_VERSION, Hello, Role, UpdateWeights, WeightsApplied
from prolong.common.types import PullAddress, Rendezvous, WeightSource

from ..scene import catalog_of, offer

LIMIT_S = 20.0


def hello(name: str, *, role: Role = Role.actor, **more: Any) -> Hello:
    about: dict[str, Any] = {"name": name, "role": role, "protocol": PROTOCOL_VERSION, "tokenizer": "t", "host": name, "pid": 1}
    return Hello(**{**about, "transport": "pull", **more})


def relay(name: str) -> Hello:
    return hello(name, role=Role.relay, serves=WeightSource(endpoint=f"tcp://{name}:1"))


def applied(
    version: int, *, generation: int = 1, checksums: list[int] | None = None, error: str = "", learner: int = 0
) -> WeightsApplied:
    return WeightsApplied(
        generation=generation,
        version=version,
        epoch=-1,
        checksums=[version] if checksums is None else checksums,
        seconds=0.1,
        error=error,
        catalog=catalog_of(version, learner),
    )


def told(pulls: Pullers, now: float = 0.0, *, generation: int = 1) -> dict[str, int]:
    return {name: update.version for name, update in pulls.due(generation, "gpu", now)}


def sources(update: UpdateWeights) -> list[str]:
    return [source.endpoint for source in msgspec.msgpack.decode(update.rendezvous.address, type=PullAddress).sources]


@pytest.fixture
def pulls() -> Pullers:
    """Two actors, and version 3 on offer."""
    pulls = Pullers(timeout_s=LIMIT_S, resync_interval_s=1.0)
    pulls.join(hello("a"))
    pulls.join(hello("b"))
    pulls.offer(offer(3))
    return pulls


def test_all_who_are_behind_are_told_at_once_and_only_once(pulls: Pullers) -> None:
    assert told(pulls) == {"a": 3, "b": 3}
    assert told(pulls) == {}
    pulls.join(hello("c"))
    assert told(pulls) == {"c": 3}, "a newcomer does not wait for anybody"
    pulls.offer(offer(4))
    assert told(pulls) == {"a": 4, "b": 4, "c": 4}, "also while they pull version 3"


def test_an_update_is_a_pull_of_one_member_without_an_epoch(pulls: Pullers) -> None:
    (_, update), _ = pulls.due(1, "gpu", 0.0)
    assert (update.epoch, update.member, update.num_members, update.rendezvous.transport) == (-1, 0, 1, "pull")
    address = msgspec.msgpack.decode(update.rendezvous.address, type=PullAddress)
    assert address == PullAddress(catalog=catalog_of(3), sources=[WeightSource(endpoint="tcp://learner:1")])


def test_a_puller_holds_what_it_acknowledged_and_goes_on_to_what_it_was_told_of_meanwhile(pulls: Pullers) -> None:
    assert pulls.version_of("a", 1) is None
    told(pulls)
    pulls.offer(offer(4))
    told(pulls)
    assert pulls.applied("a", applied(3), 1.0) is PullOutcome.held
    assert pulls.version_of("a", 1) == 3
    assert pulls.version_of("a", 2) is None, "weights of another generation are no weights"
    assert told(pulls, 1.0) == {}, "it was told of version 4 already"
    assert pulls.applied("a", applied(4), 2.0) is PullOutcome.held
    assert pulls.version_of("a", 1) == 4


def test_other_checksums_than_the_learners_cost_a_puller_its_weights(pulls: Pullers) -> None:
    told(pulls)
    assert pulls.applied("a", applied(3, checksums=[99]), 0.0) is PullOutcome.wrong
    assert pulls.version_of("a", 1) is None
    assert told(pulls, 0.5) == {}
    assert told(pulls, 1.0) == {"a": 3}
    pulls.leave("a")
    pulls.join(hello("a", generation=1, version=3))
    assert pulls.version_of("a", 1) is None, "its word is worth nothing until it acknowledges the right ones"
    assert pulls.applied("a", applied(3), 2.0) is PullOutcome.held
    assert pulls.version_of("a", 1) == 3


def test_an_acknowledgement_counts_for_the_version_of_its_catalog_alone(pulls: Pullers) -> None:
    told(pulls)
    claimed = msgspec.structs.replace(applied(3), version=4)
    assert pulls.applied("a", claimed, 0.0) is PullOutcome.unknown
    assert pulls.version_of("a", 1) is None
    assert told(pulls) == {"a": 3}


def test_a_relay_has_no_checksums(pulls: Pullers) -> None:
    pulls.join(relay("r"))
    assert pulls.applied("r", applied(3, checksums=[]), 0.0) is PullOutcome.held
    assert pulls.applied("a", applied(3, checksums=[]), 0.0) is PullOutcome.wrong


def test_errors_are_answered_by_the_offer_after_pauses_that_double(pulls: Pullers) -> None:
    told(pulls)
    now, pauses = 0.0, []
    for _ in range(7):
        assert pulls.applied("a", applied(3, error="no route"), now) is PullOutcome.failed
        pause = next(tenths / 10 for tenths in range(1000) if "a" in told(pulls, now + tenths / 10))
        pauses.append(pause)
        now += pause
    assert pauses == [1, 2, 4, 8, 16, LIMIT_S, LIMIT_S]
    pulls.applied("a", applied(3), now)
    pulls.offer(offer(4))
    assert "a" in told(pulls, now)


def test_an_error_about_an_older_version_than_it_was_told_of_changes_nothing(pulls: Pullers) -> None:
    told(pulls)
    pulls.offer(offer(4))
    told(pulls)
    pulls.applied("a", applied(3, error="superseded"), 0.0)
    assert told(pulls, 5.0) == {}
    puller = pulls.find("a")
    assert puller is not None
    assert puller.num_errors == 0


def test_an_update_that_nobody_answers_is_sent_again(pulls: Pullers) -> None:
    told(pulls)
    assert told(pulls, LIMIT_S - 0.1) == {}
    assert told(pulls, LIMIT_S) == {"a": 3, "b": 3}


def test_a_connection_that_broke_may_have_lost_the_update(pulls: Pullers) -> None:
    told(pulls)
    pulls.reconnect(hello("a"))
    assert told(pulls) == {"a": 3}


def test_an_offer_that_comes_late_or_twice_changes_nothing(pulls: Pullers) -> None:
    told(pulls)
    assert pulls.offer(offer(3))
    assert not pulls.offer(offer(2))
    assert told(pulls) == {}


def test_offers_of_a_learner_are_void_once_another_one_comes(pulls: Pullers) -> None:
    told(pulls)
    pulls.applied("a", applied(3, error="the learner is gone"), 0.0)
    pulls.learner_joined(0.0)
    pulls.join(hello("c"))
    assert told(pulls) == {}
    pulls.offer(offer(3, learner=1))
    assert told(pulls) == {"a": 3, "b": 3, "c": 3}, "the version is the same, the catalog is not"


def test_weights_of_a_learner_that_is_gone_count_for_nothing_when_they_arrive(pulls: Pullers) -> None:
    told(pulls)
    pulls.applied("a", applied(3), 0.0)
    pulls.offer(offer(5))
    told(pulls)
    pulls.learner_joined(0.0)
    pulls.offer(offer(4, learner=1))
    assert pulls.applied("a", applied(5), 0.0) is PullOutcome.unknown
    assert pulls.version_of("a", 1) == 3
    assert told(pulls)["a"] == 4


def test_late_weights_of_a_learner_that_is_gone_are_not_wrong_though_the_version_is_made_again(pulls: Pullers) -> None:
    told(pulls)
    pulls.learner_joined(0.0)
    again = msgspec.structs.replace(offer(3, learner=1), checksums=[33])  # a GPU may round another way
    pulls.offer(again)
    told(pulls)
    assert pulls.applied("a", applied(3), 0.0) is PullOutcome.unknown
    assert told(pulls) == {"a": 3}
    assert pulls.applied("a", applied(3, checksums=[33], learner=1), 0.0) is PullOutcome.held


def test_another_generation_makes_everybody_pull_though_the_version_is_lower(pulls: Pullers) -> None:
    pulls.applied("a", applied(3), 0.0)
    pulls.offer(offer(0, generation=2))
    assert told(pulls, generation=1) == {}
    assert told(pulls, generation=2) == {"a": 0, "b": 0}
    assert pulls.applied("b", applied(3), 0.0) is PullOutcome.held, "it does hold the old ones"
    assert pulls.version_of("b", 2) is None


def test_a_puller_that_greets_a_restarted_buffer_holds_what_it_says_until_it_is_compared() -> None:
    pulls = Pullers(timeout_s=LIMIT_S, resync_interval_s=1.0)
    pulls.join(hello("a", generation=2, version=7))
    assert pulls.version_of("a", 2) == 7
    assert pulls.version_of("a", 3) is None
    pulls.offer(offer(7, generation=2))
    assert told(pulls, generation=2) == {"a": 7}, "its checksums are still to be compared"
    assert pulls.applied("a", applied(7, generation=2, checksums=[8]), 0.0) is PullOutcome.wrong
    assert pulls.version_of("a", 2) is None


def test_a_path_of_relays_is_named_best_first_and_the_learner_last(pulls: Pullers) -> None:
    for index in range(9):
        pulls.join(relay(f"relay-{index}"))
    updates = dict(pulls.due(1, "gpu", 0.0))
    assert sources(updates["relay-0"]) == ["tcp://learner:1"]
    assert sources(updates["relay-8"]) == ["tcp://relay-0:1", "tcp://learner:1"]
    assert sources(updates["a"])[0].startswith("tcp://relay-")
    puller = pulls.find("a")
    assert puller is not None
    assert puller.told_sources[-1] == "learner"


def test_a_server_that_left_or_fails_is_not_named_again(pulls: Pullers) -> None:
    pulls.join(relay("r"))
    pulls.join(relay("s"))
    assert [sources(update)[0] for name, update in pulls.due(1, "gpu", 0.0) if name in "ab"] == ["tcp://r:1", "tcp://s:1"]
    pulls.leave("r")
    pulls.applied("a", applied(3, error="r is gone"), 0.0)
    assert [sources(update)[0] for name, update in pulls.due(1, "gpu", 1.0) if name == "a"] == ["tcp://s:1"]
    for now in (1.0, 2.0):
        pulls.applied("s", applied(3, error="disk full"), now)
        told(pulls, now + 2.0)
    pulls.applied("a", applied(3, error="s has nothing"), 4.0)
    assert [sources(update) for name, update in pulls.due(1, "gpu", 6.0) if name == "a"] == [["tcp://learner:1"]]


def test_servers_take_the_catalogs_of_another_learner_before_others_are_sent_to_them(pulls: Pullers) -> None:
    serving = hello("s", serves=WeightSource(endpoint="tcp://s:1"))
    pulls.join(relay("r"))
    pulls.join(serving)
    pulls.offer(offer(5))
    for name, sums in (("r", []), ("s", [5]), ("a", [5])):
        pulls.applied(name, applied(5, checksums=sums), 0.0)
    pulls.learner_joined(0.0)
    pulls.offer(offer(4, learner=1))
    updates = dict(pulls.due(1, "gpu", 0.0))
    assert updates.keys() == {"r", "b"}, "actors keep the later version that they hold"
    assert sources(updates["b"]) == ["tcp://r:1", "tcp://learner:1"]
    pulls.join(hello("c", host="s"))
    assert sources(dict(pulls.due(1, "gpu", 0.0))["c"])[0] == "tcp://r:1", "s is on its host, and has version 5 only"
    pulls.offer(offer(5, learner=1))
    assert told(pulls).keys() == {"r", "b", "c", "s"}


def test_the_longest_addresses_fit_into_a_rendezvous() -> None:
    pulls = Pullers(timeout_s=LIMIT_S, resync_interval_s=1.0)
    source = WeightSource(endpoint="tcp://" + "h" * 244 + ":65535", key="k" * 40)
    for index in range(90):
        pulls.join(hello(f"relay-{index}", role=Role.relay, serves=source))
    pulls.offer(msgspec.structs.replace(offer(0), source=source))
    updates = dict(pulls.due(1, "gpu", 0.0))
    assert max(len(sources(update)) for update in updates.values()) == 3
    for update in updates.values():
        packed = msgspec.msgpack.encode(update.rendezvous)
        assert msgspec.msgpack.decode(packed, type=Rendezvous) == update.rendezvous


def test_the_learner_is_asked_only_when_nothing_on_offer_will_do(pulls: Pullers) -> None:
    assert pulls.should_ask(1, 3, 0.0) == ""
    assert "a, b" in pulls.should_ask(1, 4, 0.0), "the learner waits for a batch, and they need version 4"
    assert pulls.should_ask(1, 4, 1.0) == "", "it was just asked"
    assert pulls.should_ask(2, -1, 6.0) != "", "nothing of generation 2 is on offer"
    pulls.learner_joined(20.0)
    assert pulls.should_ask(1, -1, 20.5) == "", "a learner that starts offers by itself"
    assert pulls.should_ask(1, -1, 21.0) != ""
    pulls.leave("a")
    pulls.leave("b")
    assert pulls.should_ask(1, -1, 99.0) == "", "nobody pulls"


NAMES = ("a", "b", "c", "d")
EVENTS = st.lists(
    st.tuples(
        st.sampled_from(("join", "leave", "reconnect", "offer", "learner", "held", "failed", "wrong", "wait")),
        st.sampled_from(NAMES),
        st.integers(0, 4),
    ),
    max_size=60,
)


def behind(pulls: Pullers, on_offer: tuple[int, int] | None, generation: int, now: float) -> set[str]:
    """Who must be told of what is on offer: the rule, looked at for everybody."""
    if on_offer is None or on_offer[0] != generation:
        return set()
    names = set()
    for name in NAMES:
        puller = pulls.find(name)
        if puller is None:
            continue
        lacks = (puller.generation, puller.version) < on_offer or puller.generation != generation
        lacks = lacks or (puller.version == on_offer[1] and not puller.is_checked)
        waits = puller.told == on_offer[1] and now < puller.told_s + LIMIT_S
        if lacks and not waits and now >= puller.pause_until_s:
            names.add(name)
    return names


@settings(max_examples=300, deadline=None)
@given(EVENTS)
def test_whatever_happens_those_are_told_who_are_behind_and_do_not_know_it(events: list[tuple[str, str, int]]) -> None:
    pulls, now, generation = Pullers(timeout_s=LIMIT_S, resync_interval_s=1.0), 0.0, 1
    on_offer: tuple[int, int] | None = None
    for what, name, number in events:
        serves = relay(name) if number % 2 else hello(name)
        if what == "join":
            pulls.join(msgspec.structs.replace(serves, generation=1, version=number - 1))
        elif what == "leave":
            pulls.leave(name)
        elif what == "reconnect":
            pulls.reconnect(serves)
        elif what == "offer":
            generation = 1 + number // 4
            if pulls.offer(offer(number, generation=generation)):
                on_offer = generation, number
        elif what == "learner":
            pulls.learner_joined(now)
            on_offer = None
        elif what == "wait":
            now += (0.5, 1.0, 3.0, LIMIT_S, 2 * LIMIT_S)[number]
        else:
            error = "the link broke" if what == "failed" else ""
            checksums = [77] if what == "wrong" else None
            pulls.applied(name, applied(number, generation=generation, checksums=checksums, error=error), now)
        expected = behind(pulls, on_offer, generation, now)
        assert set(told(pulls, now, generation=generation)) == expected, (what, name, number)
        holds = {each: pulls.version_of(each, generation) for each in NAMES if pulls.find(each)}
        lacking = {each for each, version in holds.items() if version is None or version < number}
        assert set(pulls.lacking(generation, number)) == lacking

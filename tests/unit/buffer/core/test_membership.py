from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prolong.buffer.core.membership import Membership
from prolong.common.messages import Publish, WeightsApplied
from prolong.common.types import Manifest, Rendezvous


def publish(
    version: int, generation: int = 1, address: bytes = b"here", *, phase_timeout_s: float = 0.0, given_up: int = -1
) -> Publish:
    return Publish(
        generation=generation,
        version=version,
        rendezvous=Rendezvous(transport="any", address=address),
        manifest=Manifest(buckets=[]),
        phase_timeout_s=phase_timeout_s,
        given_up=given_up,
    )


def applied(version: int, epoch: int, *, generation: int = 1, error: str = "") -> WeightsApplied:
    return WeightsApplied(generation=generation, version=version, epoch=epoch, checksums=[version], seconds=0.1, error=error)


@pytest.fixture
def two() -> Membership:
    membership = Membership(timeout_s=10.0, resync_interval_s=1.0)
    membership.join("a")
    membership.join("b")
    return membership


def reach_all(membership: Membership, version: int, now: float = 0.0) -> None:
    plan, _ = membership.publish(publish(version), now)
    for name in plan.members:
        membership.applied(name, applied(version, plan.epoch))
    assert membership.try_finish(now) is not None


def test_members_know_their_places_in_the_plan_and_where_the_learner_is(two: Membership) -> None:
    plan, updates = two.publish(publish(0), 0.0)
    assert (plan.epoch, plan.members) == (1, ["a", "b"])
    assert [(name, u.member, u.num_members) for name, u in updates.items()] == [("a", 0, 2), ("b", 1, 2)]
    assert {u.rendezvous for u in updates.values()} == {Rendezvous(transport="any", address=b"here")}


def test_an_actor_holds_no_weights_before_its_acknowledgement(two: Membership) -> None:
    plan, _ = two.publish(publish(4), 0.0)
    assert two.version_of("a", 1) is None
    two.applied("a", applied(4, plan.epoch))
    assert two.version_of("a", 1) == 4
    assert two.version_of("a", 2) is None, "weights of another generation are no weights"
    assert two.try_finish(0.0) is None, "b has not answered"


def test_the_epoch_stays_while_the_members_stay_and_its_result_has_the_checksums(two: Membership) -> None:
    reach_all(two, 0)
    plan, _ = two.publish(publish(1), 1.0)
    assert plan.epoch == 1
    for name in ("a", "b"):
        two.applied(name, applied(1, 1))
    result = two.try_finish(1.0)
    assert result is not None
    assert (result.checksums, result.failed) == ({"a": [1], "b": [1]}, {})


def test_another_list_of_members_is_another_epoch(two: Membership) -> None:
    reach_all(two, 0)
    two.join("c")
    plan, _ = two.publish(publish(0), 1.0)
    assert (plan.epoch, plan.members) == (2, ["c"]), "the others hold version 0 already"
    two.applied("c", applied(0, 2))
    two.try_finish(1.0)
    plan, _ = two.publish(publish(1), 2.0)
    assert (plan.epoch, plan.members) == (3, ["a", "b", "c"])


def test_another_rendezvous_or_generation_is_another_epoch(two: Membership) -> None:
    reach_all(two, 0)
    assert two.publish(publish(1, address=b"there"), 1.0)[0].epoch == 2
    two.applied("a", applied(1, 2))
    two.applied("b", applied(1, 2))
    two.try_finish(1.0)
    assert two.publish(publish(2, generation=2, address=b"there"), 2.0)[0].epoch == 3


def test_an_actor_that_restarts_breaks_its_epoch_though_the_names_are_the_same(two: Membership) -> None:
    reach_all(two, 0)
    two.leave("a")
    two.join("a")
    two.leave("b")
    two.join("b")
    assert two.publish(publish(0), 1.0)[0].epoch == 2


def test_without_members_there_is_nothing_to_send(two: Membership) -> None:
    reach_all(two, 3)
    plan, updates = two.publish(publish(3), 1.0)
    assert (plan.members, updates) == ([], {})
    assert two.try_finish(100.0) is None


def test_a_silent_member_is_cordoned_and_excluded_until_the_timeout_passed_again(two: Membership) -> None:
    plan, _ = two.publish(publish(0), 0.0)
    two.applied("a", applied(0, plan.epoch))
    assert two.try_finish(9.9) is None
    result = two.try_finish(10.0)
    assert result is not None
    assert result.failed == {"b": "no answer within 10 s"}
    assert two.is_cordoned("b")
    assert two.publish(publish(1), 11.0)[0].members == ["a"]
    assert two.publish(publish(2), 20.0)[0].members == ["a", "b"]


def test_a_silent_member_is_asked_in_as_soon_as_it_says_anything(two: Membership) -> None:
    plan, _ = two.publish(publish(0), 0.0)
    two.applied("a", applied(0, plan.epoch))
    assert two.try_finish(10.0) is not None
    two.applied("b", applied(0, plan.epoch, error="connection closed by peer"))
    assert two.version_of("b", 1) is None
    assert two.publish(publish(1), 11.0)[0].members == ["a", "b"]


def test_after_the_first_that_applied_the_others_have_the_deadline_of_a_phase(two: Membership) -> None:
    plan, updates = two.publish(publish(0, phase_timeout_s=2.0), 0.0)
    assert updates["a"].phase_timeout_s == 2.0, "all sides use the learner's number"
    assert two.try_finish(5.0) is None, "no member has answered"
    two.applied("a", applied(0, plan.epoch))
    assert two.try_finish(5.1) is None
    assert two.try_finish(7.0) is None
    result = two.try_finish(7.1)
    assert result is not None
    assert result.failed == {"b": "no answer within 7.1 s"}


def test_after_an_error_the_others_have_half_the_deadline_of_a_phase_from_the_last_answer(two: Membership) -> None:
    two.join("c")
    plan, _ = two.publish(publish(0, phase_timeout_s=2.0), 0.0)
    two.applied("a", applied(0, plan.epoch, error="timed out"))
    assert two.try_finish(3.0) is None
    two.applied("b", applied(0, plan.epoch, error="timed out"))
    assert two.try_finish(3.5) is None
    assert two.try_finish(4.4) is None
    result = two.try_finish(4.5)
    assert result is not None
    assert set(result.failed) == {"a", "b", "c"}
    assert two.publish(publish(0), 4.5)[0].members == ["a", "b"]


@pytest.mark.parametrize("phase_timeout_s", [0.0, -1.0, float("nan"), float("inf"), 99.0])
def test_a_phase_deadline_out_of_range_becomes_the_timeout(two: Membership, phase_timeout_s: float) -> None:
    plan, _ = two.publish(publish(0, phase_timeout_s=phase_timeout_s), 0.0)
    two.applied("a", applied(0, plan.epoch))
    assert two.try_finish(0.0) is None
    assert two.try_finish(9.9) is None
    assert two.try_finish(10.0) is not None


def test_a_member_without_an_answer_is_absent_once_the_learner_gave_the_broadcast_up(two: Membership) -> None:
    plan, _ = two.publish(publish(0), 0.0)
    two.applied("a", applied(0, plan.epoch))
    plan, _ = two.publish(publish(0, given_up=plan.epoch), 3.0)
    assert (plan.epoch, plan.members) == (2, ["a"]), "the learner never saw a's checksums: they count for nothing"
    assert two.version_of("a", 1) is None
    assert two.is_cordoned("b")


def test_a_publish_that_comes_twice_excludes_no_member(two: Membership) -> None:
    two.publish(publish(0), 0.0)
    plan, _ = two.publish(publish(0), 0.1)
    assert (plan.epoch, plan.members) == (2, ["a", "b"])
    plan, _ = two.publish(publish(0, given_up=1), 0.2)
    assert (plan.epoch, plan.members) == (3, ["a", "b"])


def test_one_actor_that_breaks_every_broadcast_ends_up_alone(two: Membership) -> None:
    """b cannot reach the learner: a broadcast fails for every member while b is one of them."""
    two.join("c")
    now, lists = 0.0, []
    for version in (0, 0, 0, 0, 0, 0, 1):
        now += 1.0
        plan, _ = two.publish(publish(version), now)
        lists.append(plan.members)
        for name in plan.members:
            two.applied(name, applied(version, plan.epoch, error="broken" if "b" in plan.members else ""))
        assert not plan.members or two.try_finish(now) is not None
    assert lists == [["a", "b", "c"], ["a", "b", "c"], ["a"], ["b"], ["c"], [], ["a", "c"]]
    assert two.should_ask(1, -1, now + 4.9) == "", "b is excluded for 1 s x 2^3 after its error alone"
    assert two.should_ask(1, -1, now + 5.0) == "b lack weights of generation 1"
    assert two.publish(publish(1), now + 5.0)[0].members == ["b"]


def test_errors_that_a_lost_member_caused_do_not_keep_the_others_out_of_the_retry(two: Membership) -> None:
    plan, _ = two.publish(publish(0), 0.0)
    two.applied("a", applied(0, plan.epoch, error="connection closed by peer"))
    two.leave("b")
    result = two.try_finish(1.0)
    assert result is not None
    assert result.failed == {"a": "connection closed by peer", "b": "the actor is gone"}
    plan, _ = two.publish(publish(0), 1.0)
    assert (plan.epoch, plan.members) == (2, ["a"])


def test_an_actor_that_fails_alone_is_left_out_of_the_retry(two: Membership) -> None:
    plan, _ = two.publish(publish(0), 0.0)
    two.applied("a", applied(0, plan.epoch, error="out of memory"))
    two.applied("b", applied(0, plan.epoch))
    assert two.try_finish(1.0) is not None
    assert two.version_of("a", 1) is None
    assert two.publish(publish(0), 1.0)[0].members == []


def test_an_answer_to_an_earlier_broadcast_changes_no_version(two: Membership) -> None:
    first, _ = two.publish(publish(0), 0.0)
    second, _ = two.publish(publish(1), 1.0)
    assert second.epoch == first.epoch + 1, "connections in the middle of a broadcast cannot be used for another"
    two.applied("a", applied(0, first.epoch))
    assert two.version_of("a", 1) is None


def test_an_actor_with_other_weights_than_were_sent_holds_nothing_and_is_sent_them_again(two: Membership) -> None:
    reach_all(two, 2)
    assert two.cordon(["b", "gone"]) == {"b": 2}
    assert two.version_of("b", 1) is None
    plan, _ = two.publish(publish(2), 1.0)
    assert (plan.epoch, plan.members) == (2, ["b"])


def test_the_learner_is_asked_for_weights_that_an_actor_lacks_but_not_too_often(two: Membership) -> None:
    two.learner_joined(0.0)
    assert two.should_ask(1, -1, 0.5) == "", "a learner that arrives publishes by itself"
    assert two.should_ask(1, -1, 1.0) == "a, b lack weights of generation 1"
    assert two.should_ask(1, -1, 1.5) == ""
    two.publish(publish(0), 2.0)
    assert two.should_ask(1, -1, 9.0) == "", "a broadcast is under way"


def test_a_waiting_learner_is_asked_also_for_actors_that_lag(two: Membership) -> None:
    reach_all(two, 3)
    assert two.should_ask(1, -1, 5.0) == ""
    assert two.should_ask(1, 4, 5.0) == "a, b lack weights of generation 1"


def test_a_cordoned_actor_is_asked_in_again_once_the_learner_is_asked(two: Membership) -> None:
    two.publish(publish(0), 0.0)
    two.applied("a", applied(0, 1))
    assert two.try_finish(10.0) is not None
    assert two.publish(publish(0), 10.1)[0].members == []
    assert two.should_ask(1, -1, 19.9) == "", "it is excluded"
    assert two.should_ask(1, -1, 20.0) == "b lack weights of generation 1"
    assert two.publish(publish(0), 20.1)[0].members == ["b"]


def test_a_learner_that_arrives_begins_another_epoch(two: Membership) -> None:
    reach_all(two, 0)
    two.learner_joined(5.0)
    plan, _ = two.publish(publish(1), 6.0)
    assert (plan.epoch, plan.members) == (2, ["a", "b"])


def test_a_restored_buffer_begins_an_epoch_that_was_never_used() -> None:
    membership = Membership(timeout_s=10.0, resync_interval_s=1.0)
    membership.restore(41)
    membership.join("a")
    assert membership.publish(publish(0), 0.0)[0].epoch == 42


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(("join", "leave", "publish", "applied", "error", "cordon", "learner", "wait")),
        st.sampled_from("abcd"),
        st.integers(0, 3),
    ),
    max_size=60,
)


@settings(max_examples=300, deadline=None)
@given(EVENTS)
def test_those_lack_weights_who_may_not_generate_with_them_whatever_happened(events: list[tuple[str, str, int]]) -> None:
    membership, now, epoch = Membership(timeout_s=10.0, resync_interval_s=1.0), 0.0, 0
    living: set[str] = set()
    for what, name, number in events:
        if what == "join":
            membership.join(name)
            living.add(name)
        elif what == "leave":
            membership.leave(name)
            living.discard(name)
        elif what == "publish":
            epoch = membership.publish(publish(number, generation=1 + number // 3, given_up=epoch), now)[0].epoch
        elif what in ("applied", "error"):
            error = "" if what == "applied" else "it broke"
            membership.applied(name, applied(number, epoch, generation=1 + number // 3, error=error))
        elif what == "cordon":
            membership.cordon([name])
        elif what == "learner":
            membership.learner_joined(now)
        else:
            now += 4.0 * number
        membership.try_finish(now)
        for generation in (1, 2):
            holds = {each: membership.version_of(each, generation) for each in living}
            for version in range(-1, 4):
                expected = {each for each, held in holds.items() if held is None or held < version}
                assert set(membership.lacking(generation, version)) == expected, (what, name, number)


def test_a_thousand_names_are_not_all_in_one_sentence() -> None:
    membership = Membership(timeout_s=10.0, resync_interval_s=1.0)
    for index in range(1000):
        membership.join(f"actor-{index}")
    said = membership.should_ask(1, 0, 5.0)
    assert said == f"{', '.join(f'actor-{index}' for index in range(8))} and 992 others lack weights of generation 1"

from __future__ import annotations

from prolong.buffer.core.peers import Peers, refuse_hello
from prolong.common.messages import PROTOCOL_VERSION, Hello, Role


def hello(role: Role = Role.actor, name: str = "actor-0", **more: object) -> Hello:
    fields = {"role": role, "name": name, "protocol": PROTOCOL_VERSION, "tokenizer": "tok", "host": "h", "pid": 1} | more
    return Hello(**fields)  # pyright: ignore[reportArgumentType]


def test_another_protocol_is_refused_and_both_are_named() -> None:
    refused = refuse_hello(hello(protocol=9), Peers(), "tok", 1)
    assert refused is not None
    assert "protocol 9" in refused.reason
    assert f"the buffer speaks {PROTOCOL_VERSION}" in refused.reason
    assert not refused.retry


def test_another_tokenizer_is_refused_and_both_are_named_but_observers_need_none() -> None:
    refused = refuse_hello(hello(tokenizer="abc"), Peers(), "tok", 1)
    assert refused is not None
    assert "abc" in refused.reason
    assert "tok" in refused.reason
    assert refuse_hello(hello(Role.observer, "status", tokenizer=""), Peers(), "tok", 1) is None


def test_a_second_learner_is_asked_to_try_again_and_the_same_process_is_let_in() -> None:
    peers = Peers()
    peers.join(b"1", hello(Role.learner, "learner", pid=1), 0.0)
    refused = refuse_hello(hello(Role.learner, "learner", pid=2), peers, "tok", 1)
    assert refused is not None
    assert refused.retry
    assert "pid 1 on h" in refused.reason
    assert refuse_hello(hello(Role.learner, "learner", pid=1), peers, "tok", 1) is None


def test_a_learner_in_a_stage_that_the_run_does_not_have_is_refused() -> None:
    for stage in (-1, 2):
        refused = refuse_hello(hello(Role.learner, "learner", stage=stage), Peers(), "tok", 2)
        assert refused is not None
        assert f"is in stage {stage}, the buffer's run has 2" in refused.reason
        assert not refused.retry
    assert refuse_hello(hello(Role.learner, "learner", stage=1), Peers(), "tok", 2) is None


def test_a_name_of_another_role_is_refused() -> None:
    peers = Peers()
    peers.join(b"1", hello(Role.learner, "x"), 0.0)
    refused = refuse_hello(hello(Role.actor, "x"), peers, "tok", 1)
    assert refused is not None
    assert "the name x is taken by a living learner" in refused.reason


def test_a_process_that_comes_back_on_another_socket_keeps_its_place_and_numbers() -> None:
    peers = Peers()
    peers.join(b"1", hello(), 0.0).stats = {"busy_s": 5.0}
    peers.join(b"2", hello(name="actor-1"), 1.0)
    peers.join(b"3", hello(), 2.0)
    assert peers.find(b"1") is None
    assert [peer.identity for peer in peers.actors()] == [b"3", b"2"]
    assert peers.actors()[0].stats == {"busy_s": 5.0}


def test_silence_is_counted_from_the_last_word() -> None:
    peers = Peers()
    peers.join(b"1", hello(), 0.0)
    peers.join(b"2", hello(name="actor-1"), 0.0).seen_s = 6.0
    assert [peer.name for peer in peers.silent(10.5, 5.0)] == ["actor-0"]


def test_metrics_are_what_grew_since_the_last_batch_summed_over_actors() -> None:
    peers = Peers()
    first, second = peers.join(b"1", hello(), 0.0), peers.join(b"2", hello(name="actor-1"), 0.0)
    first.stats, second.stats = {"busy_s": 3.0}, {"busy_s": 1.0, "actor/idle_s": 2.0}
    assert peers.actor_metrics() == {
        "actor/num_actors": 2.0,
        "actor/room": 0.0,
        "actor/busy_s": 4.0,
        "actor/idle_s": 2.0,
    }
    first.stats = {"busy_s": 3.5}
    second.stats = {"busy_s": 0.25}  # it started again
    assert peers.actor_metrics()["actor/busy_s"] == 0.75


def test_who_is_silent_is_known_by_the_last_word_of_each() -> None:
    peers = Peers()
    for index in range(4):
        peers.join(b"%d" % index, hello(name=f"actor-{index}"), 0.0)
    for index, now in ((2, 1.0), (0, 2.0), (2, 3.0), (1, 3.5)):
        heard = peers.named(f"actor-{index}")
        assert heard is not None
        peers.heard(heard, now)
    assert [peer.name for peer in peers.silent(10.5, 7.5)] == ["actor-3", "actor-0"]
    assert not peers.all_silent(10.5, 7.0)
    assert peers.all_silent(11.0, 7.0)
    gone = peers.named("actor-3")
    assert gone is not None
    peers.leave(gone)
    peers.join(b"9", hello(name="actor-0"), 10.0)
    assert [peer.name for peer in peers.silent(20.0, 16.0)] == ["actor-2", "actor-1"]
    assert [peer.name for peer in peers.workers()] == ["actor-0", "actor-1", "actor-2"]

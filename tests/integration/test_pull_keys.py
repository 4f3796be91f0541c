"""Who may pull: real sockets behind keys. The right ones work at once, all others get nothing; keys come and go at run time."""

from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from time import monotonic

import pytest
import zmq
from prolong.common.errors import ConfigError, WeightsError
from prolong.common.transport.sockets import connect_dealer
from prolong.common.transport.wire import encode
from prolong.common.types import WeightSource
from prolong.common.weights.pull.fetch import arriving_catalog
from prolong.common.weights.pull.link import Link, SourceLost
from prolong.common.weights.pull.pace import Pace
from prolong.common.weights.pull.protocol import CatalogWanted
from prolong.common.weights.pull.server import WeightServer
from prolong.common.weights.pull.window import Window

from tests.support.pulls import Learner, make_client_keys, make_manifest, make_puller, soon
from tests.support.runs import wait_until


@pytest.fixture
def learner():
    with Learner(keys=make_client_keys()) as learner:
        yield learner


def test_an_admitted_key_gets_everything_in_chunks_of_full_size():
    keys = make_client_keys()
    with Learner(make_manifest(9 << 20, 1), chunk_bytes=4 << 20, keys=make_client_keys()) as learner:
        learner.server.admit([keys.public.decode()])
        with make_puller(keys, chunk_bytes=4 << 20, streams=2) as puller:
            puller.pull(learner.step(), soon())
            assert learner.is_held_by(puller.store)


def test_a_key_that_is_not_admitted_gets_nothing_until_it_is(learner):
    keys, other = make_client_keys(), make_client_keys()
    learner.server.admit([other.public.decode()])
    update = learner.step()
    with make_puller(keys) as puller:
        # it asks until its time is over, and must have heard the answer by then
        with pytest.raises(WeightsError, match="refused the connection"):
            puller.pull(update, soon(4.0))
        assert learner.server.counters["weights/refused_keys"] > 0
        assert learner.server.counters["weights/sent_bytes"] == 0
        learner.server.admit([keys.public.decode()])
        puller.pull(update, soon())
        assert learner.is_held_by(puller.store)


def test_a_connection_that_is_refused_before_anything_was_asked_is_a_lost_source(learner):
    """A puller may connect, and have no processor until the answer is there."""
    learner.step()
    with zmq.Context() as context:
        link = Link(context, learner.server.source, make_client_keys(), Window(1, 0.0), 1, Pace(0.0))
        ask = partial(link.ask_catalog, 0, arriving_catalog(learner.store.layout), monotonic())

        def why_lost() -> str:
            try:
                ask()
            except SourceLost as error:
                return str(error)
            return ""

        try:
            assert "refused the connection" in wait_until("the source to be lost", why_lost, 60.0)
        finally:
            link.close()


def test_a_key_that_is_removed_gets_nothing_more_on_the_connection_that_it_has(learner):
    keys = make_client_keys()
    learner.server.admit([keys.public.decode()])
    with make_puller(keys) as puller:
        result, counters = puller.pull(learner.step(), soon()), learner.server.counters
        wait_until("everything sent is counted", lambda: counters["weights/sent_bytes"] > result.num_bytes, 60.0)
        sent = counters["weights/sent_bytes"]
        learner.server.admit([])
        with pytest.raises(WeightsError):
            puller.pull(learner.step(), soon(1.0))
        wait_until("its frames are refused", lambda: learner.server.counters["weights/refused_frames"] > 0, 60.0)
        assert learner.server.counters["weights/sent_bytes"] == sent


def test_a_puller_without_keys_or_with_the_key_of_another_server_gets_nothing(learner):
    keys = make_client_keys()
    learner.server.admit([keys.public.decode()])
    learner.step()
    source = learner.server.source
    stranger = make_client_keys().public.decode()
    for theirs, key, told in (
        (None, source.key, "has a key"),
        (keys, "", "has no key"),
        (keys, stranger, "failed, its time is over"),
    ):
        with make_puller(theirs) as puller, pytest.raises(WeightsError, match=told):
            puller.pull(learner.update(WeightSource(endpoint=source.endpoint, key=key)), soon(1.0))
    assert learner.server.counters["weights/sent_bytes"] == 0


def test_raw_sockets_without_the_right_keys_hear_nothing(learner):
    admitted = make_client_keys()
    learner.server.admit([admitted.public.decode()])
    learner.step()
    asked = encode(CatalogWanted(request=1, version=0, granted=1 << 30))
    source = learner.server.source
    unknown = replace(make_client_keys(), buffer=source.key.encode())
    with ExitStack() as stack:
        context = stack.enter_context(zmq.Context())
        dealers = [connect_dealer(context, source.endpoint, 1 << 20, keys=keys) for keys in (None, unknown)]
        for dealer in dealers:
            stack.callback(dealer.close, linger=0)
            dealer.send(asked)
        wait_until("the unknown key is refused", lambda: learner.server.counters["weights/refused_keys"] > 0, 60.0)
        with make_puller(admitted) as puller:
            puller.pull(learner.update(source), soon())
            assert learner.is_held_by(puller.store)
        assert not any(dealer.poll(0) for dealer in dealers)


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.7"])
def test_beyond_loopback_a_server_needs_keys(host):
    with pytest.raises(ConfigError, match=r"weights\.host .* or keys: make them"):
        WeightServer(host, 0, None, Pace(0.0))


def test_beyond_loopback_a_puller_without_keys_asks_nobody(learner):
    learner.step()
    with make_puller() as puller, pytest.raises(WeightsError, match="expected a loopback address"):
        puller.pull(learner.update(WeightSource(endpoint="tcp://192.0.2.7:5710")), soon(0.5))

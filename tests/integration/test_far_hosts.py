"""Runs whose actors pull their weights from far away: over links that are slow, lossy or cut, and through a relay."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from time import monotonic

import pytest
from prolong.bench.networks import Network, network, why_no_links
from prolong.common.errors import WeightsError
from prolong.common.transport.keys import load_client_keys
from prolong.common.types import WeightSource
from prolong.common.weights.pull.puller import Puller

from tests.support.far_runs import BUFFER_PORT, WEIGHTS_PORT, FarRun, connections_of
from tests.support.pulls import make_client_keys, make_manifest, make_store, make_update, soon

pytestmark = pytest.mark.skipif(bool(why_no_links()), reason=why_no_links() or "links can be shaped here")
ETA = 8
# `make soak`: the link is cut for as long as this
CUT_S = 60.0 if os.environ.get("PROLONG_SOAK") else 0.0
NUM_ACTORS = 5


@pytest.fixture
def hosts(request: pytest.FixtureRequest) -> Iterator[Network]:
    with network("home", *request.param) as made:
        yield made


@pytest.fixture
def started() -> Iterator[list[FarRun]]:
    """Runs that are to be ended."""
    runs: list[FarRun] = []
    yield runs
    for run in runs:
        run.kill_all()


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("hosts", [("near", "far")], indirect=True)
def test_an_actor_behind_a_poor_link_works_outlives_a_cut_and_holds_nobody_up(
    hosts: Network, started: list[FarRun], tmp_path: Path, demo_model: Path
) -> None:
    hosts.shape("far", rate_mbit=100, delay_ms=50, loss=0.01)
    # actors are slower than the learner, one group at a time, so that both are needed, and eta versions last longer than a pull
    pace = ["actor.capacity=2", "sampling.n=2", "buffer.batch_groups=96", f"buffer.eta={ETA}", "buffer.silence_s=4"]
    run = FarRun(tmp_path, demo_model, hosts, *pace, "model.dtype=bfloat16", "weights.streams=4")
    started.append(run)
    run.start_home()
    for name in ("near", "far"):
        run.start(name, "actor", "--name", name)
    run.home.wait(
        "the far actor to work", lambda: run.fact("far", "generated_rollouts") > 0 and run.fact("far", "num_updates") > 1, 300
    )
    # its host talks to the buffer and to the learner's weights, and to nobody else
    needed = {(hosts.address("home"), port) for port in (BUFFER_PORT, WEIGHTS_PORT)}
    run.home.wait("both of its connections", lambda: needed <= connections_of(hosts, "far"), 60)
    assert connections_of(hosts, "far") <= needed
    assert_a_stranger_gets_nothing(run)

    hosts.cut_off("far")
    cut_at, version = monotonic(), run.version()
    run.home.wait("the others to go on", lambda: run.version() > version + 1, 240)
    run.home.wait("the end of the cut", lambda: monotonic() - cut_at > CUT_S, 2 * CUT_S + 1)
    hosts.plug_in("far")
    version = run.version()
    run.home.wait("the far actor to hold newer weights", lambda: run.fact("far", "version") >= version, 240)
    rollouts = run.fact("far", "generated_rollouts")
    run.home.wait("the far actor to work again", lambda: run.fact("far", "generated_rollouts") > rollouts, 240)
    run.home.wait("groups of both to be trained", lambda: run.trained_groups().keys() == {"near", "far"}, 240)

    status = run.status()
    assert status is not None
    assert status.balanced
    assert run.home.metrics()
    assert max(record["buffer/staleness_max"] for record in run.home.metrics()) <= ETA


def assert_a_stranger_gets_nothing(run: FarRun) -> None:
    """With a key that nobody admits, from the host of an actor that may pull."""
    learner_keys = load_client_keys(f"{run.keys}/hosts/home")
    assert learner_keys is not None
    source = WeightSource(endpoint=f"tcp://{run.hosts.address('home')}:{WEIGHTS_PORT}", key=learner_keys.public.decode())
    with run.hosts.inside("far"):
        puller = Puller(make_store, make_client_keys())
        try:
            with pytest.raises(WeightsError, match="does not know this process's key"):
                puller.pull(make_update(make_manifest(), 0, bytes(32), source), soon(10.0))
        finally:
            puller.close()


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("hosts", [("relay", "site")], indirect=True)
def test_five_actors_that_join_at_once_through_a_relay_cost_the_learner_one_upload(
    hosts: Network, started: list[FarRun], tmp_path: Path, demo_model: Path
) -> None:
    # weights that do not change: all that is uploaded is the first snapshot
    run = FarRun(tmp_path, demo_model, hosts, "learner.lr=1e-30", "buffer.batch_groups=8")
    started.append(run)
    names = [f"actor-{number}" for number in range(NUM_ACTORS)]
    run.start_home()
    run.start("relay", "relay", "--name", "relay", "weights.streams=4")
    run.home.wait("the relay", lambda: (status := run.status()) is not None and "relay" in status.peers, 240)
    for name in names:
        run.start("site", "actor", "--name", name)
    run.home.wait("all actors to work", lambda: all(run.fact(name, "generated_rollouts") > 0 for name in names), 400)
    run.home.wait("a step", lambda: len(run.home.metrics()) > 0, 240)

    record, status = run.home.metrics()[-1], run.status()
    assert status is not None
    assert status.balanced
    assert [status.peers[name]["sources"] for name in names] == ["relay, learner"] * NUM_ACTORS
    assert all(run.fact(name, "updates_bytes") == record["weights/full_bytes"] for name in names)
    # one actor may find the relay too slow on a busy machine, and turn to the learner; without the relay all do
    assert record["weights/full_bytes"] <= record["weights/sent_bytes"] < 2.1 * record["weights/full_bytes"]
    # frames and the buffer's messages count as well
    assert hosts.sent_bytes("relay") > (NUM_ACTORS - 1) * record["weights/full_bytes"]
    assert hosts.sent_bytes("home") < 3.5 * record["weights/full_bytes"]
    home = hosts.address("home")
    needed = {(home, BUFFER_PORT), (hosts.address("relay"), WEIGHTS_PORT)}
    assert needed <= connections_of(hosts, "site") <= needed | {(home, WEIGHTS_PORT)}

"""A run on several hosts with addresses and disks of their own: keys, two nodes of the learner, a killed rank."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from prolong.bench.networks import Network, network, why_no_networks
from prolong.buffer.journal.journal import read_journal
from prolong.common.transport.keys import make_keys

from tests.support.runs import SMALL, Run, assert_balanced

pytestmark = pytest.mark.skipif(bool(why_no_networks()), reason=why_no_networks() or "networks can be made here")
HOSTS = ("buffer", "first", "second", "actor")
PORT = 29_500
STEPS = 20  # enough that the run is not over before the kill


@pytest.fixture
def hosts() -> Iterator[Network]:
    with network(*HOSTS) as made:
        yield made


@pytest.fixture
def runs(tmp_path: Path, demo_model: Path, hosts: Network) -> Iterator[dict[str, Run]]:
    """The same run as seen from each host, whose disk is a folder. Every host has its keys, and reaches the buffer by them."""
    make_keys(tmp_path / "keys", list(HOSTS[1:]))
    settings = [*SMALL, f"model.path={demo_model}", "data.heldout=[]", f"run.steps={STEPS}", "buffer.silence_s=5"]
    settings += [f"data.train=[{{file: {demo_model}/train.jsonl}}]", f"buffer.address=tcp://{hosts.address('buffer')}:5710"]
    settings += [f"weights.host={hosts.address('first')}"]
    runs = {}
    for name in HOSTS:
        (tmp_path / name).mkdir()
        keys = tmp_path / "keys" if name == "buffer" else tmp_path / "keys" / "hosts" / name
        runs[name] = Run(tmp_path / name, "several", [*settings, f"buffer.keys={keys}"])
    yield runs
    for run in runs.values():
        run.kill_all()


@pytest.mark.timeout(1000)
def test_two_nodes_train_one_run_and_outlive_a_killed_rank(runs: dict[str, Run], hosts: Network) -> None:
    """The node of the killed rank starts it again, the other node follows, and no batch is lost or trained twice."""

    def start(name: str, command: str, *arguments: str):
        return runs[name].start(command, *arguments, within=hosts.within(name))

    meeting = ["--nodes", "2", "--rendezvous", f"{hosts.address('first')}:{PORT}", "--node-rank"]
    # node 1 waits for node 0, both for the buffer
    learners = [start("second", "learner", *meeting, "1"), start("first", "learner", *meeting, "0")]
    start("buffer", "buffer")
    actor = start("actor", "actor")
    runs["first"].wait_for_step(3, 300)
    (rank,) = runs["second"].find("learner")
    rank.kill()
    codes = [runs["first"].ended(process, 500) for process in (*learners, actor)]
    outputs = "\n".join(run.output() for run in runs.values())
    assert codes == [0, 0, 0], outputs
    # one restart was enough: no rank looked for another where it was before, and none had to be killed
    assert "connectFullMesh failed" not in outputs
    assert "forcefully" not in outputs
    steps = [record["step"] for record in runs["first"].metrics()]
    assert steps == list(range(1, STEPS + 1))
    assert_balanced(runs["first"].summary(), STEPS, batch_groups=4)
    # each file is on the disk of its owner
    assert not (runs["second"].folder / "metrics.jsonl").exists()
    assert not (runs["buffer"].folder / "checkpoints").exists()
    journal = read_journal(runs["buffer"].folder / "journal")
    assert journal.versions()[-1] == STEPS - 1
    journal.close()
    # the settings of a run are known to its buffer, which sees no checkpoint
    assert runs["buffer"].ended(start("buffer", "buffer", "buffer.batch_groups=8"), 150) == 2
    assert "buffer.batch_groups = 8, but this run has 4" in runs["buffer"].output()

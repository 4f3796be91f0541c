"""Components started by hand on several hosts, as docs/launching.md says: any order, keys, hosts cut off that come back."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from subprocess import Popen

import pytest
from prolong.bench.networks import Network, network, why_no_networks
from prolong.buffer.client.observer import request_status
from prolong.common.errors import BufferUnreachable
from prolong.common.messages import Status
from prolong.common.transport.keys import make_keys

from tests.support.runs import SMALL, Run

pytestmark = [
    pytest.mark.skipif(bool(why_no_networks()), reason=why_no_networks() or "networks can be made here"),
    pytest.mark.slow,
]
HOSTS = ("home", "learn", "gen-1", "gen-2")
SILENCE_S = 4


class Hands:
    """The hosts, whose disks are folders, and what somebody types on each."""

    def __init__(self, folder: Path, model: Path, hosts: Network) -> None:
        self.hosts, self.keys = hosts, folder / "keys"
        self.address = f"tcp://{hosts.address('home')}:5710"
        make_keys(self.keys, ["learn", "gen-1"])
        data = [f"model.path={model}", f"data.train=[{{file: {model}/train.jsonl}}]", "data.heldout=[]"]
        limits = [f"buffer.silence_s={SILENCE_S}", "weights.timeout_s=10", "run.steps=100000"]
        self.settings = [*SMALL, *data, *limits, f"buffer.address={self.address}"]
        self.runs: dict[str, Run] = {}
        for name in HOSTS:
            (folder / name).mkdir()
            keys = self.keys if name == "home" else self.keys / "hosts" / name
            self.runs[name] = Run(folder / name, "mine", [*self.settings, f"buffer.keys={keys}"])
        self.home, self.learn = self.runs["home"], self.runs["learn"]

    def types(self, host: str, command: str, *arguments: str) -> Popen:
        return self.runs[host].start(command, *arguments, within=self.hosts.within(host))

    def step(self) -> int:
        records = self.learn.metrics()
        return int(records[-1]["step"]) if records else 0

    def wait_for_steps(self, number: int, why: str) -> None:
        """So many more than there are now."""
        begin = self.step()
        self.learn.wait(f"steps {why}", lambda: self.step() >= begin + number, 240)

    def status(self) -> Status:
        with self.hosts.inside("home"):
            return request_status(self.address, 60.0, keys=str(self.keys))

    def rollouts(self, actor: str) -> float:
        return float(self.status().peers.get(actor, {}).get("generated_rollouts", 0.0))

    def wait_for_work(self, actor: str) -> None:
        begin = self.rollouts(actor)
        self.home.wait(f"more rollouts of {actor}", lambda: self.rollouts(actor) > begin, 240)

    def output(self) -> str:
        return "\n".join(run.output() for run in self.runs.values())


@pytest.fixture
def hands(tmp_path: Path, demo_model: Path) -> Iterator[Hands]:
    with network(*HOSTS) as hosts:
        hands = Hands(tmp_path, demo_model, hosts)
        yield hands
        for run in hands.runs.values():
            run.kill_all()


@pytest.mark.timeout(1200)
def test_hosts_come_are_cut_off_come_back_and_are_shut_out(hands: Hands) -> None:
    first = hands.types("gen-1", "actor", "--name", "gen-1")
    learner = hands.types("learn", "learner", f"weights.host={hands.hosts.address('learn')}")
    hands.types("home", "buffer")
    hands.wait_for_steps(2, "with everybody there")

    # a host whose key is made while the run goes on
    assert make_keys(hands.keys, ["gen-2"]) == ["gen-2"]
    second = hands.types("gen-2", "actor", "--name", "gen-2")
    hands.wait_for_work("gen-2")

    hands.hosts.cut_off("gen-1")
    hands.wait_for_steps(2, "without gen-1")
    hands.hosts.plug_in("gen-1")
    hands.wait_for_work("gen-1")

    hands.hosts.cut_off("home")
    hands.home.wait("the buffer to miss everybody", lambda: not hands.status().peers.keys() & {"gen-1", "gen-2"}, 120)
    hands.hosts.plug_in("home")
    hands.wait_for_steps(2, "after the buffer was cut off")

    # one that is no longer trusted does not come back
    (hands.keys / "allowed" / "gen-1.pub").unlink()
    first.kill()
    with hands.hosts.inside("gen-1"), pytest.raises(BufferUnreachable, match="the keys may differ"):
        request_status(hands.address, 4.0, keys=f"{hands.keys}/hosts/gen-1")
    hands.wait_for_steps(2, "without gen-1 for good")

    second.send_signal(signal.SIGTERM)
    assert hands.runs["gen-2"].ended(second, 120) == 0, hands.output()
    learner.send_signal(signal.SIGTERM)
    assert hands.learn.ended(learner, 240) == 0, hands.output()
    assert hands.status().balanced
    assert max(record["buffer/staleness_max"] for record in hands.learn.metrics()) <= 2

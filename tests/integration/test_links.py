"""Shaped links between hosts of one machine: they hold back, delay and lose what a plain TCP stream or datagrams send."""

import socket
from collections.abc import Iterator
from time import monotonic

import pytest
from prolong.bench.networks import Network, network, why_no_links

pytestmark = pytest.mark.skipif(bool(why_no_links()), reason=why_no_links() or "links can be shaped here")
PORT = 7000
CABLE_BYTES = 24 + 18 + 40  # of each frame that are no content: the cable's, Ethernet's, IP's and TCP's


@pytest.fixture(scope="module")
def hosts() -> Iterator[Network]:
    with network("near", "far") as made:
        yield made


@pytest.fixture
def stream(hosts: Network) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A TCP connection between the two hosts."""
    with hosts.inside("near"):
        listener = socket.create_server((hosts.address("near"), PORT), reuse_port=True)
    with listener, hosts.inside("far"):
        far = socket.create_connection((hosts.address("near"), PORT), timeout=20)
        near, _ = listener.accept()
    near.settimeout(20)
    with near, far:
        yield near, far


def receive(receiver: socket.socket, num_bytes: int) -> bytes:
    parts = []
    while num_bytes:
        parts.append(receiver.recv(num_bytes))
        num_bytes -= len(parts[-1])
    return b"".join(parts)


def test_a_link_takes_its_delay_each_way(hosts: Network, stream: tuple[socket.socket, socket.socket]) -> None:
    near, far = stream
    hosts.shape("far", rate_mbit=100, delay_ms=30)
    started = monotonic()
    near.sendall(b"question")
    assert receive(far, 8) == b"question"
    assert monotonic() - started >= 0.03
    far.sendall(b"answer")
    assert receive(near, 6) == b"answer"
    assert monotonic() - started >= 0.06


def test_a_stream_is_whole_and_no_faster_than_the_rate(hosts: Network, stream: tuple[socket.socket, socket.socket]) -> None:
    near, far = stream
    hosts.shape("far", rate_mbit=50, delay_ms=5, loss=0.01)
    content = bytes(range(256)) * 6000
    near.setblocking(False)
    sent, parts, started = 0, [], monotonic()
    while sum(map(len, parts)) < len(content):
        try:
            sent += near.send(content[sent : sent + 65536])
        except BlockingIOError:
            parts.append(far.recv(1 << 20))
        if sent == len(content):
            parts.append(receive(far, len(content) - sum(map(len, parts))))
    assert b"".join(parts) == content
    assert monotonic() - started >= len(content) * 8 / 50e6
    assert hosts.link_counters("far")["lost"] > 0


def test_the_same_seed_loses_the_same_frames() -> None:
    """On hosts that no other connection was made between: what it still sends would be among the frames."""
    end = b"end"

    def send(hosts: Network, *contents: bytes) -> None:
        with hosts.inside("far"), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for content in contents:
                sender.sendto(content, (hosts.address("near"), PORT))

    def arrived(seed: int) -> list[int]:
        with network("near", "far") as hosts:
            hosts.shape("far", rate_mbit=1000, loss=0.1, seed=seed)
            with hosts.inside("near"):
                receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            with receiver:
                receiver.bind((hosts.address("near"), PORT))
                receiver.settimeout(0.1)
                send(hosts, *(number.to_bytes(4, "big") for number in range(300)))
                came: list[bytes] = []
                while end not in came:
                    try:
                        came.append(receiver.recv(4))
                    except TimeoutError:  # all are on their way, or the last one is lost
                        send(hosts, end)
        return [int.from_bytes(content, "big") for content in came[:-1]]

    first = arrived(seed=1)
    assert 230 < len(first) < 295
    assert arrived(seed=1) == first
    assert arrived(seed=2) != first


def test_a_cut_link_passes_nothing_and_the_stream_goes_on_when_it_is_back(
    hosts: Network, stream: tuple[socket.socket, socket.socket]
) -> None:
    near, far = stream
    hosts.shape("far", rate_mbit=100)
    hosts.cut_off("far")
    near.sendall(b"late")
    far.settimeout(0.3)
    with pytest.raises(TimeoutError):
        far.recv(4)
    hosts.plug_in("far")
    far.settimeout(20)
    assert receive(far, 4) == b"late"

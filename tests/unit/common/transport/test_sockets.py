"""Sockets: refused addresses are explained, frames over the limit never arrive, a full peer does not block the sender."""

import socket

import pytest
import zmq
from prolong.common.errors import AddressInUse, ConfigError
from prolong.common.transport.sockets import (
    FRAMES_AHEAD,
    FRAMES_BEHIND,
    bind_router,
    check_address,
    connect_dealer,
    endpoint_of,
    is_loopback,
)

LOOPBACK = "tcp://127.0.0.1:0"
SOON_MS = 60_000  # what is waited for happens at once, unless the machine is busy


@pytest.fixture
def context():
    with zmq.Context() as context:
        yield context


def pair(context, max_bytes=1 << 20):
    router = bind_router(context, LOOPBACK, max_bytes)
    return router, connect_dealer(context, endpoint_of(router), max_bytes, b"peer")


def test_an_address_in_use_is_named_with_what_to_do(context):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(AddressInUse, match=f"{address}: in use .* choose another port") as raised:
            bind_router(context, address, 1 << 20)
    assert raised.value.exit_code == 2


@pytest.mark.parametrize(
    "address", ["127.0.0.1:5710", "tcp://127.0.0.1", "tcp://:5710", "tcp://127.0.0.1:99999", "ipc://x", ""]
)
def test_what_is_no_address_is_refused(address):
    with pytest.raises(ConfigError, match=r"expected tcp://HOST:PORT"):
        check_address(address)


@pytest.mark.parametrize("host", ["0.0.0.0", "*", "192.168.1.4", "example.org", "[::]"])
def test_an_address_beyond_loopback_needs_keys(context, host):
    for attempt in (
        check_address,
        lambda address: bind_router(context, address, 1),
        lambda address: connect_dealer(context, address, 1),
    ):
        with pytest.raises(ConfigError, match=r"or keys: make them with `prolong keys keys .* set buffer\.keys=keys"):
            attempt(f"tcp://{host}:5710")
    check_address(f"tcp://{host}:5710", has_keys=True)


def test_loopback_is_recognised():
    assert all(map(is_loopback, ["127.0.0.1", "127.9.9.9", "localhost", "[::1]"]))
    assert not any(map(is_loopback, ["0.0.0.0", "*", "10.0.0.1", "localhost.example.org"]))


def test_an_address_of_another_host_cannot_be_bound(context):
    with pytest.raises(ConfigError, match="expected an address of this host"):
        bind_router(context, "tcp://198.51.100.1:5710", 1 << 20, zmq.curve_keypair()[1])


def test_a_message_goes_there_and_back(context):
    router, dealer = pair(context)
    with router, dealer:
        dealer.send(b"ping")
        assert router.poll(SOON_MS)
        assert router.recv_multipart() == [b"peer", b"ping"]
        router.send_multipart((b"peer", b"pong"))
        assert dealer.poll(SOON_MS)
        assert dealer.recv() == b"pong"


def test_a_frame_over_the_limit_never_arrives(context):
    router = bind_router(context, LOOPBACK, 1000)
    dealer = connect_dealer(context, endpoint_of(router), 1 << 20, b"peer")
    with router, dealer:
        dealer.send(b"x" * 1001)
        assert not router.poll(200)


def test_a_flood_of_large_frames_waits_at_its_sender(context):
    """The router reads nothing: it holds a few frames, the kernel some more, and the rest stays where it comes from."""
    size, num_frames = 1 << 20, 200
    router = bind_router(context, LOOPBACK, size)
    with router, zmq.Context() as other, other.socket(zmq.DEALER) as dealer:
        dealer.sndhwm = 1
        dealer.linger = 0
        dealer.connect(endpoint_of(router))
        num_taken = 0
        while num_taken < num_frames and dealer.poll(SOON_MS if num_taken < FRAMES_AHEAD else 200, zmq.POLLOUT):
            dealer.send(bytes(size), zmq.NOBLOCK)
            num_taken += 1
        # kernels differ in how much they hold, up to dozens of megabytes
        assert FRAMES_AHEAD <= num_taken < num_frames / 2


def test_answers_to_a_peer_that_does_not_read_are_bounded(context):
    router = bind_router(context, LOOPBACK, 1 << 20)
    with router, zmq.Context() as other, other.socket(zmq.DEALER) as dealer:
        dealer.routing_id, dealer.rcvhwm, dealer.linger = b"deaf", 1, 0
        dealer.connect(endpoint_of(router))
        dealer.send(b"hello")
        assert router.poll(SOON_MS)
        router.recv_multipart()
        num_taken = 0
        while num_taken < 10 * FRAMES_BEHIND and router.poll(200, zmq.POLLOUT):
            try:
                router.send_multipart((b"deaf", bytes(1 << 16)), zmq.NOBLOCK)
            except zmq.Again:
                break
            num_taken += 1
        assert FRAMES_BEHIND <= num_taken < 2 * FRAMES_BEHIND


def test_a_send_to_a_peer_that_is_gone_raises_so_that_it_can_be_counted(context):
    router, dealer = pair(context)
    with router, dealer, pytest.raises(zmq.ZMQError) as raised:
        router.send_multipart((b"nobody", b"x"), zmq.NOBLOCK)
    assert raised.value.errno == zmq.EHOSTUNREACH


def test_the_last_words_of_a_buffer_that_leaves_are_heard(context):
    router, dealer = pair(context)
    with dealer, zmq.Context() as other:
        router.close()
        router = bind_router(other, LOOPBACK, 1 << 20)
        with connect_dealer(context, endpoint_of(router), 1 << 20, b"late") as late:
            late.send(b"hello")
            assert router.poll(SOON_MS)
            router.recv_multipart()
            router.send_multipart((b"late", b"stop"))
            router.close(linger=1000)
            other.term()
            assert late.poll(SOON_MS)
            assert late.recv() == b"stop"


def test_a_reconnecting_peer_takes_its_routing_id_over(context):
    router, dealer = pair(context)
    with router, dealer:
        dealer.send(b"one")
        assert router.poll(SOON_MS)
        assert router.recv_multipart() == [b"peer", b"one"]
        with connect_dealer(context, endpoint_of(router), 1 << 20, b"peer") as again:
            again.send(b"two")
            assert router.poll(SOON_MS)
            assert router.recv_multipart() == [b"peer", b"two"]
            router.send_multipart((b"peer", b"answer"))
            assert again.poll(SOON_MS)
            assert again.recv() == b"answer"

"""ZeroMQ sockets with prolong's options: bounded queues, bounded frames, heartbeats on the wire, no linger.

The buffer binds one ROUTER; each client connects one DEALER under a routing id that stays the same over reconnects.
Source: http://api.zeromq.org/4-3:zmq-setsockopt
"""

from __future__ import annotations

import errno
import ipaddress

import zmq

from ..errors import AddressInUse, ConfigError
from .keys import ClientKeys

HIGH_WATER_MARK = 10_000  # frames that a client queues in ZeroMQ, each way, before it keeps them itself
# frames of one client that wait in the buffer, which bounds their bytes; the others wait in the client
FRAMES_AHEAD = 16
# frames that wait for one client to read them; the buffer drops and counts further ones
FRAMES_BEHIND = 1_000
HEARTBEAT_MS = 2_000  # ZMTP ping, which finds half-open connections
HEARTBEAT_TIMEOUT_MS = 20_000
REFUSED = zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
# what the monitor of a watched DEALER reports
WATCHED = zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED | REFUSED
RECONNECT_MS = 50
RECONNECT_MAX_MS = 1_000
# of one attempt: by itself the kernel waits longer with each, and would find a link that is back only after half a minute
CONNECT_TIMEOUT_MS = 5_000


def bind_router(
    context: zmq.Context,
    address: str,
    max_bytes: int,
    secret: bytes | None = None,
    *,
    frames_behind: int = FRAMES_BEHIND,
    setting: str = "buffer.address",
) -> zmq.Socket:
    """A ROUTER bound to `address`; `endpoint_of` gives the real address when the port is 0.

    With a `secret` key, frames are encrypted, and a `Gate` of the same context admits clients; without a Gate no client is.
    `frames_behind` messages may wait for each client. `setting` is named in errors.
    Raises: AddressInUse; ConfigError for an address that cannot be bound, or one that other hosts could reach without keys.
    """
    check_address(address, has_keys=secret is not None, setting=setting)
    socket = context.socket(zmq.ROUTER)
    _set_common(socket, max_bytes, num_sent=frames_behind, num_received=FRAMES_AHEAD)
    if secret is not None:
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt(zmq.CURVE_SECRETKEY, secret)
        socket.setsockopt(zmq.ZAP_DOMAIN, b"prolong")
        # without it every client would be admitted while no Gate answers
        socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
    # a send to a peer that is gone raises, so that it can be counted
    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
    # a client that reconnects takes over its routing id from its dead connection
    socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
    try:
        socket.bind(address)
    except zmq.ZMQError as error:
        socket.close(linger=0)
        if error.errno == errno.EADDRINUSE:
            raise AddressInUse(_in_use(address, setting)) from error
        raise ConfigError(f"{setting} = {address!r}: expected an address of this host that can be bound ({error})") from error
    return socket


def connect_dealer(
    context: zmq.Context,
    address: str,
    max_bytes: int,
    routing_id: bytes = b"",
    *,
    keys: ClientKeys | None = None,
    watch: int = 0,
    frames_ahead: int = HIGH_WATER_MARK,
    setting: str = "buffer.address",
) -> zmq.Socket:
    """A DEALER that connects to `address` in the background, and reconnects without end.

    ZMQ_IMMEDIATE stays off: with it, a connection that breaks discards frames that had arrived but were not read (a last Stop).

    With `keys`, it talks only to the buffer of that public key.
    With `watch`, its `get_monitor_socket()` reports these events, such as WATCHED; use `close_watched` then.
    `frames_ahead` messages may wait to be read. `setting` is named in errors.
    Raises: ConfigError for an unusable address, or for one of another host without keys.
    """
    check_address(address, has_keys=keys is not None, setting=setting)
    socket = context.socket(zmq.DEALER)
    _set_common(socket, max_bytes, num_sent=HIGH_WATER_MARK, num_received=frames_ahead)
    socket.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, RECONNECT_MAX_MS)
    socket.setsockopt(zmq.CONNECT_TIMEOUT, CONNECT_TIMEOUT_MS)
    if routing_id:
        socket.setsockopt(zmq.ROUTING_ID, routing_id)
    if keys is not None:
        socket.setsockopt(zmq.CURVE_SECRETKEY, keys.secret)
        socket.setsockopt(zmq.CURVE_PUBLICKEY, keys.public)
        socket.setsockopt(zmq.CURVE_SERVERKEY, keys.buffer)
    if watch:
        # before connecting: the first event would be missed otherwise
        socket.get_monitor_socket(watch)
    try:
        socket.connect(address)
    except zmq.ZMQError as error:
        if watch:
            close_watched(socket, linger_s=0.0)
        socket.close(linger=0)
        raise ConfigError(f"{setting} = {address!r}: expected tcp://HOST:PORT ({error})") from error
    return socket


def close_watched(dealer: zmq.Socket, linger_s: float) -> None:
    """Close a watched DEALER; queued frames may still be sent for `linger_s` while its context terminates."""
    monitor = dealer.get_monitor_socket()
    dealer.disable_monitor()
    monitor.close(linger=0)
    dealer.close(linger=int(1000 * linger_s))


def endpoint_of(socket: zmq.Socket) -> str:
    """The address that a socket is really bound to."""
    endpoint = socket.getsockopt(zmq.LAST_ENDPOINT)
    assert isinstance(endpoint, bytes)
    return endpoint.decode().rstrip("\0")


def check_address(address: str, *, has_keys: bool = False, setting: str = "buffer.address") -> None:
    """Raise ConfigError unless `address` is a tcp address, on loopback if there are no keys."""
    host, colon, port = address.removeprefix("tcp://").rpartition(":")
    if not address.startswith("tcp://") or not colon or not host or not port.isdigit() or int(port) > 65_535:
        raise ConfigError(f"{setting} = {address!r}: expected tcp://HOST:PORT with a port from 0 to 65535")
    if not has_keys and not is_loopback(host):
        raise ConfigError(
            f"{setting} = {address!r}: expected a loopback address such as tcp://127.0.0.1:5710, or keys: make them with "
            "`prolong keys keys --clients 1` on the buffer's host, copy what it says, and set buffer.keys=keys on every host"
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`; names other than localhost count as reachable."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _in_use(address: str, setting: str) -> str:
    if setting == "buffer.address":
        owner, advice = " (a buffer that still runs?)", "buffer.address=tcp://127.0.0.1:PORT"
    else:
        owner, advice = "", setting
    return f"{setting} = {address}: in use by another process{owner}; stop it or choose another port with {advice}"


def _set_common(socket: zmq.Socket, max_bytes: int, *, num_sent: int, num_received: int) -> None:
    """`num_sent`, `num_received`: messages that may wait in either direction, for each peer. ZeroMQ counts whole messages."""
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.SNDHWM, num_sent)
    socket.setsockopt(zmq.RCVHWM, num_received)
    socket.setsockopt(zmq.MAXMSGSIZE, max_bytes)
    socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, HEARTBEAT_TIMEOUT_MS)

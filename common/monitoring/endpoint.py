"""The HTTP endpoint of a process (`run.http_port`): its numbers for Prometheus, and whether it is alive and ready.

    GET /metrics    numbers, in Prometheus' text format
    GET /healthz    200 while the process gets on, 503 when it is stuck; a JSON object says in what state it is, and why
    GET /readyz     200 while it can do its work, 503 while something hinders it

It only reads: nothing in a request changes anything. It is on loopback unless the run spans hosts, which `buffer.address`
tells; then it listens on every address of the host, because scrapers and probes come by networks of their own. That is not
encrypted: it tells names and numbers, never a prompt, a completion or a key. Each process takes the first free port from
`run.http_port` on and notes it in RUN/endpoints/NAME.json, as Prometheus' file_sd_configs reads it.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from http import HTTPStatus
from pathlib import Path
from socketserver import BaseRequestHandler, ThreadingTCPServer
from time import monotonic

from ..config.run_files import run_paths
from ..config.sections import Config
from ..errors import AddressInUse
from ..files import write_atomically
from ..trace import open_trace, trace_name
from ..transport.sockets import is_loopback
from .exposition import CONTENT_TYPE, Metric, MetricKind, exposition
from .vitals import Vitals

log = logging.getLogger(__name__)

PORTS = 128  # tried from run.http_port on
REQUEST_S = 5.0  # for a request to come, and again for its answer to leave
MAX_HEAD = 16 << 10  # bytes of a request
MAX_REQUESTS = 16  # answered at once; further connections are closed
REFUSED = "connections that were closed because too many were open"


@contextmanager
def serve_vitals(cfg: Config, role: str, name: str) -> Iterator[Vitals]:
    """The vitals of this process, with a trace, and served if `run.http_port` is set, while the block runs.

    Raises: AddressInUse.
    """
    with open_trace(run_paths(cfg).trace, role, name) as tracer:
        vitals = Vitals(role, name, cfg.run.name, tracer=tracer)
        with serve_http(cfg, vitals, cfg.buffer.address):
            yield vitals


@contextmanager
def serve_http(cfg: Config, vitals: Vitals, address: str) -> Iterator[None]:
    """Serve these vitals while the block runs, if `run.http_port` is set. `address`: where the others of the run are found.

    Raises: AddressInUse.
    """
    if cfg.run.http_port == 0:
        yield
        return
    vitals.watched = True
    server = open_server(vitals, listening_host(address), cfg.run.http_port)
    thread = threading.Thread(target=server.serve_forever, args=(0.2,), name="http-endpoint", daemon=True)
    thread.start()
    note = run_paths(cfg).endpoints / f"{trace_name(vitals.name)}.json"
    try:
        _write_note(note, server)
        yield
    finally:
        server.shutdown()
        server.server_close()
        note.unlink(missing_ok=True)


def listening_host(address: str) -> str:
    """Loopback for a run on one machine, else every address of this host."""
    host = address.removeprefix("tcp://").rpartition(":")[0]
    if is_loopback(host):
        return "::1" if ":" in host else "127.0.0.1"
    return "::" if ":" in host else "0.0.0.0"


def open_server(vitals: Vitals, host: str, first_port: int) -> EndpointServer:
    """A server on the first free port from `first_port` on, which does not serve yet. Raises: AddressInUse."""
    last: OSError | None = None
    for port in range(first_port, min(first_port + PORTS, 65_536)):
        try:
            return EndpointServer(vitals, host, port)
        except OSError as error:
            last = error
    raise AddressInUse(
        f"run.http_port = {first_port}: none of the {PORTS} ports from there on can be bound on {host} ({last}); choose another"
    )


class EndpointServer(ThreadingTCPServer):
    """Answers a bounded number of requests at once, each in a thread and in bounded time."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = MAX_REQUESTS

    def __init__(self, vitals: Vitals, host: str, port: int) -> None:
        self.vitals = vitals
        self.num_refused = 0  # REFUSED
        self._free = threading.BoundedSemaphore(MAX_REQUESTS)
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), EndpointRequest)

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def process_request(self, request: socket.socket | tuple[bytes, socket.socket], client_address: object) -> None:
        if not self._free.acquire(blocking=False):
            self.num_refused += 1
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)  # pyright: ignore[reportArgumentType]
        except RuntimeError:
            # no thread was to be had: its place would be taken for ever, and 16 of these would end the endpoint
            self._free.release()
            raise

    def process_request_thread(self, request: socket.socket | tuple[bytes, socket.socket], client_address: object) -> None:
        try:
            super().process_request_thread(request, client_address)  # pyright: ignore[reportArgumentType]
        finally:
            self._free.release()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away in the middle, or was too slow, concerns nobody; any other error is one of ours."""
        if not isinstance(sys.exception(), OSError):
            log.exception("a request was not answered")


class EndpointRequest(BaseRequestHandler):
    """One request; the connection is closed after it. Raises: OSError, which the server drops."""

    request: socket.socket

    def handle(self) -> None:
        assert isinstance(self.server, EndpointServer)
        vitals, request = self.server.vitals, read_request(self.request, monotonic() + REQUEST_S)
        status, kind, text = HTTPStatus.BAD_REQUEST, "text/plain", "expected GET /metrics, /healthz or /readyz\n"
        match request:
            case ("GET" | "HEAD", "/metrics"):
                refused = Metric("endpoint_refused", float(self.server.num_refused), MetricKind.counter, about=REFUSED)
                status, kind, text = HTTPStatus.OK, CONTENT_TYPE, exposition([*vitals.metrics(), refused], _labels(vitals))
            case ("GET" | "HEAD", "/healthz" | "/readyz" as path):
                status, kind, text = _told(vitals, path)
            case (_, _):
                status = HTTPStatus.NOT_FOUND
        content = text.encode()
        head = f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: {kind}\r\nContent-Length: {len(content)}\r\n"
        # the limit of a sendall is one of the whole call
        self.request.settimeout(REQUEST_S)
        self.request.sendall(
            f"{head}Connection: close\r\n\r\n".encode() + (b"" if request and request[0] == "HEAD" else content)
        )


def read_request(connection: socket.socket, until_s: float) -> tuple[str, str] | None:
    """Method and path of a request; None if there is none in the first MAX_HEAD bytes. Raises: OSError at `until_s`."""
    received = b""
    while b"\r\n\r\n" not in received:
        left_s = until_s - monotonic()
        if left_s <= 0:
            raise TimeoutError
        connection.settimeout(left_s)
        chunk = connection.recv(MAX_HEAD)
        received += chunk
        if not chunk or len(received) > MAX_HEAD:
            return None
    words = received.partition(b"\r\n")[0].decode("latin-1").split(" ")
    return (words[0], words[1].partition("?")[0]) if len(words) == 3 else None


def _told(vitals: Vitals, path: str) -> tuple[HTTPStatus, str, str]:
    """How the process is, as the answer to a probe."""
    health = vitals.health()
    ok = health.alive if path == "/healthz" else health.ready
    told = _labels(vitals) | asdict(health) | {"state_s": round(health.state_s, 3)}
    return HTTPStatus.OK if ok else HTTPStatus.SERVICE_UNAVAILABLE, "application/json", json.dumps(told) + "\n"


def _labels(vitals: Vitals) -> dict[str, str]:
    """Whose numbers these are."""
    return {"run": vitals.run, "role": vitals.role, "process": vitals.name}


def _write_note(path: Path, server: EndpointServer) -> None:
    host = str(server.server_address[0])
    shown = socket.gethostname() if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    target = f"{shown}:{server.port}"
    # every number has run, role and process as labels of its own: here they would clash
    note = [{"targets": [target], "labels": {"__meta_prolong_pid": str(os.getpid())}}]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(note) + "\n")
    log.info("endpoint at http://%s/metrics and /healthz", target)

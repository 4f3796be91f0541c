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
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import BaseServer

from ..config.run_files import run_paths
from ..config.sections import Config
from ..errors import AddressInUse
from ..files import write_atomically
from ..trace import open_trace, trace_name
from ..transport.sockets import is_loopback
from .exposition import CONTENT_TYPE, exposition
from .vitals import Vitals

log = logging.getLogger(__name__)

PORTS = 128  # tried from run.http_port on
REQUEST_S = 5.0  # longest wait for the next bytes of a request, or for room to send the answer
MAX_REQUESTS = 16  # answered at once; further connections are closed


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


class EndpointServer(ThreadingHTTPServer):
    """Answers a bounded number of requests at once, each in a thread and in bounded time."""

    daemon_threads = True
    request_queue_size = MAX_REQUESTS

    def __init__(self, vitals: Vitals, host: str, port: int) -> None:
        self.vitals = vitals
        self.num_refused = 0  # connections that were closed because too many were open
        self._free = threading.BoundedSemaphore(MAX_REQUESTS)
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), EndpointRequest)

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def server_bind(self) -> None:
        # the parent looks the host's name up, which may take long where no name server answers
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def process_request(self, request: socket.socket | tuple[bytes, socket.socket], client_address: object) -> None:
        if not self._free.acquire(blocking=False):
            self.num_refused += 1
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)  # pyright: ignore[reportArgumentType]

    def process_request_thread(self, request: socket.socket | tuple[bytes, socket.socket], client_address: object) -> None:
        try:
            super().process_request_thread(request, client_address)  # pyright: ignore[reportArgumentType]
        finally:
            self._free.release()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away in the middle concerns nobody."""


class EndpointRequest(BaseHTTPRequestHandler):
    """One request; the connection is closed after it."""

    timeout = REQUEST_S
    server_version, sys_version = "prolong", ""

    def do_GET(self) -> None:
        assert isinstance(self.server, BaseServer)
        vitals: Vitals = self.server.vitals  # pyright: ignore[reportAttributeAccessIssue]
        match self.path.partition("?")[0]:
            case "/metrics":
                page = exposition(vitals.metrics(), {"run": vitals.run, "role": vitals.role, "process": vitals.name})
                self._answer(HTTPStatus.OK, CONTENT_TYPE, page)
            case "/healthz":
                self._answer_health(vitals, ok=vitals.health().alive)
            case "/readyz":
                self._answer_health(vitals, ok=vitals.health().ready)
            case _:
                self._answer(HTTPStatus.NOT_FOUND, "text/plain", "expected /metrics, /healthz or /readyz\n")

    def _answer_health(self, vitals: Vitals, *, ok: bool) -> None:
        told = {"run": vitals.run, "role": vitals.role, "process": vitals.name} | asdict(vitals.health())
        told["state_s"] = round(float(told["state_s"]), 3)
        self._answer(HTTPStatus.OK if ok else HTTPStatus.SERVICE_UNAVAILABLE, "application/json", json.dumps(told) + "\n")

    def _answer(self, status: HTTPStatus, kind: str, text: str) -> None:
        content = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """A probe every few seconds is nothing to write down."""


def _write_note(path: Path, server: EndpointServer) -> None:
    host = str(server.server_address[0])
    shown = socket.gethostname() if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    target = f"{shown}:{server.port}"
    # every number has run, role and process as labels of its own: here they would clash
    note = [{"targets": [target], "labels": {"__meta_prolong_pid": str(os.getpid())}}]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(note) + "\n")
    log.info("endpoint at http://%s/metrics and /healthz", target)

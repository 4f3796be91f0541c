"""The endpoint of a process, over real HTTP on loopback."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import urllib.error
import urllib.request
from contextlib import ExitStack
from pathlib import Path

import pytest
from prolong.common.config.run_files import run_paths
from prolong.common.config.sections import BufferConfig, Config, ModelConfig, RunConfig
from prolong.common.errors import AddressInUse
from prolong.common.monitoring import endpoint
from prolong.common.monitoring.endpoint import MAX_REQUESTS, listening_host, open_server, serve_vitals
from prolong.common.monitoring.exposition import Metric
from prolong.common.monitoring.vitals import Vitals

SOON_S = 60.0  # what is waited for happens at once, unless the machine is busy


@pytest.fixture
def free_port() -> int:
    """A port that was free a moment ago; the next one that is free will do as well."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return min(port, 65_000)


def config_of(folder: Path, port: int) -> Config:
    return Config(run=RunConfig(name="mine", root=str(folder), http_port=port), model=ModelConfig(path="unused"))


def target_of(cfg: Config, process: str) -> str:
    [note] = json.loads((run_paths(cfg).endpoints / f"{process}.json").read_text())
    return note["targets"][0]


def get(target: str, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://{target}{path}", timeout=SOON_S) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_a_process_tells_its_numbers_and_that_it_is_alive_and_ready(tmp_path: Path, free_port: int) -> None:
    cfg = config_of(tmp_path, free_port)
    with serve_vitals(cfg, "learner", "learner") as vitals:
        target = target_of(cfg, "learner")
        code, text = get(target, "/readyz")
        assert (code, json.loads(text)["reason"]) == (503, "it starts")
        vitals.enter("trains the batch of version 7", limit_s=60.0)
        vitals.publish([Metric("learner_version", 7.0)])
        page = get(target, "/metrics")[1]
        assert 'prolong_learner_version{run="mine",role="learner",process="learner"} 7\n' in page
        assert 'prolong_up{run="mine",role="learner",process="learner"} 1\n' in page
        for path in ("/healthz", "/readyz"):
            code, text = get(target, path)
            assert (code, json.loads(text)["state"]) == (200, "trains the batch of version 7")
        assert get(target, "/secrets")[0] == 404
    assert list(run_paths(cfg).endpoints.iterdir()) == []


def test_a_process_that_does_not_get_on_is_not_alive_and_says_for_how_long() -> None:
    vitals = Vitals("actor", "actor-0", "mine")
    vitals.enter("generates", limit_s=-1.0)
    health = vitals.health()
    assert (health.alive, health.ready) == (False, False)
    assert "nothing happened for" in health.reason
    vitals.enter("generates", limit_s=60.0, hindrance="it waits for its first weights")
    assert (vitals.health().alive, vitals.health().ready) == (True, False)
    vitals.enter("generates", limit_s=60.0)
    assert vitals.health().ready


def test_processes_of_one_machine_take_ports_one_after_the_other(tmp_path: Path, free_port: int) -> None:
    cfg = config_of(tmp_path, free_port)
    with serve_vitals(cfg, "buffer", "buffer"), serve_vitals(cfg, "actor", "far/1"):
        first, second = target_of(cfg, "buffer"), target_of(cfg, "far_1")
        assert int(second.rpartition(":")[2]) > int(first.rpartition(":")[2]) >= free_port
        assert json.loads(get(second, "/healthz")[1])["process"] == "far/1"


def test_without_a_port_nothing_is_served(tmp_path: Path) -> None:
    cfg = config_of(tmp_path, 0)
    with serve_vitals(cfg, "buffer", "buffer") as vitals:
        assert not vitals.watched
    assert not run_paths(cfg).endpoints.exists()


def test_only_a_run_that_spans_hosts_is_served_beyond_loopback() -> None:
    told = {"tcp://127.0.0.1:5710": "127.0.0.1", "tcp://localhost:1": "127.0.0.1", "tcp://[::1]:1": "::1"}
    told |= {"tcp://10.0.0.1:5710": "0.0.0.0", "tcp://buffer.svc:5710": "0.0.0.0", "tcp://[fd00::1]:5710": "::"}
    assert {address: listening_host(address) for address in told} == told
    assert BufferConfig().address in told


def test_no_free_port_is_a_mistake_with_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "PORTS", 1)
    vitals = Vitals("buffer", "buffer", "mine")
    first = open_server(vitals, "127.0.0.1", 0)
    try:
        with pytest.raises(AddressInUse, match=r"run\.http_port"):
            open_server(vitals, "127.0.0.1", first.port)
    finally:
        first.server_close()


def test_clients_that_never_speak_take_a_bounded_number_of_threads(
    tmp_path: Path, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint, "REQUEST_S", SOON_S)
    cfg = config_of(tmp_path, free_port)
    with serve_vitals(cfg, "buffer", "buffer"), ExitStack() as stack:
        host, _, port = target_of(cfg, "buffer").rpartition(":")
        silent = [stack.enter_context(socket.create_connection((host, int(port)), SOON_S)) for _ in range(MAX_REQUESTS)]
        # every place is taken: the next one is closed at once, and counted
        with socket.create_connection((host, int(port)), SOON_S) as late:
            late.settimeout(SOON_S)
            assert late.recv(1) == b""
        silent[0].sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        silent[0].settimeout(SOON_S)
        page = b"".join(iter(lambda: silent[0].recv(4096), b"")).decode()
        assert 'prolong_endpoint_refused_total{run="mine",role="buffer",process="buffer"} 1\n' in page


def test_a_place_is_free_again_when_no_thread_could_be_started(monkeypatch: pytest.MonkeyPatch, free_port: int) -> None:
    def no_thread(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    server = open_server(Vitals("buffer", "buffer", "mine"), "127.0.0.1", free_port)
    ours, theirs = socket.socketpair()
    with ours, theirs, monkeypatch.context() as exhausted:
        exhausted.setattr(threading.Thread, "start", no_thread)
        for _ in range(MAX_REQUESTS + 1):
            with pytest.raises(RuntimeError):
                server.process_request(ours, None)
    server.server_close()
    assert server.num_refused == 0


def test_an_error_of_our_own_is_in_the_log_and_ends_nothing(
    tmp_path: Path, free_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    cfg = config_of(tmp_path, free_port)
    with serve_vitals(cfg, "buffer", "buffer") as vitals:
        target = target_of(cfg, "buffer")
        vitals.publish([Metric("big", 10**400)])
        with pytest.raises(http.client.RemoteDisconnected):
            get(target, "/metrics")
        assert get(target, "/healthz")[0] == 200
        vitals.publish([])
        assert get(target, "/metrics")[0] == 200
    assert "a request was not answered" in caplog.text
    assert "OverflowError" in caplog.text


def test_a_client_that_speaks_slowly_or_too_much_or_nonsense_is_cut_off(
    tmp_path: Path, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = config_of(tmp_path, free_port)
    with serve_vitals(cfg, "buffer", "buffer"):
        host, _, port = target_of(cfg, "buffer").rpartition(":")

        def answer_to(*parts: bytes) -> bytes:
            with socket.create_connection((host, int(port)), SOON_S) as client:
                client.settimeout(SOON_S)
                for part in parts:
                    client.sendall(part)
                return b"".join(iter(lambda: client.recv(4096), b""))

        def drip() -> None:
            with socket.create_connection((host, int(port)), SOON_S) as client:
                while True:
                    client.sendall(b"x")

        with monkeypatch.context() as hurried:
            hurried.setattr(endpoint, "REQUEST_S", 0.2)
            assert answer_to(b"GET /metr") == b"", "it waited in vain"
        with pytest.raises(OSError, match=r"reset|pipe"):
            drip()
        assert answer_to(b"GET\r\n\r\n").startswith(b"HTTP/1.1 400 ")
        assert answer_to(b"POST /metrics HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 404 ")
        head = answer_to(b"HEAD /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert head.endswith(b"\r\n\r\n")
        assert answer_to(b"GET /heal", b"thz?probe=1 HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 200 OK\r\n")

"""A real buffer that is watched, between a scripted actor and learner: its endpoint, `prolong top`, the pace in its status."""

from __future__ import annotations

import dataclasses
import json
import os
import pty
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from prolong.buffer.client.observer import request_status
from prolong.common.messages import StepDone, TakeBatch
from prolong.common.transport.keys import make_keys
from prolong.common.types import StepEvidence
from prometheus_client.parser import text_string_to_metric_families

from tests.support.buffer_process import BufferProcess, make_config
from tests.support.endpoints import fetch, targets_of
from tests.support.runs import free_port, wait_until
from tests.support.scripted_peers import start_actor, start_learner

CLI = [sys.executable, "-m", "prolong.launch.cli"]


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BufferProcess]:
    """A buffer behind keys, with an endpoint: its learner made a step and waits for a batch that its actor does not make."""
    folder = tmp_path_factory.mktemp("watched")
    make_keys(folder / "keys", ["laptop"])
    cfg = make_config(folder, eta=0, address="tcp://0.0.0.0:0", keys=str(folder / "keys"))
    cfg = dataclasses.replace(cfg, run=dataclasses.replace(cfg.run, http_port=free_port()))
    with BufferProcess(cfg) as buffer:
        learner, actor = start_learner(cfg, buffer.address), start_actor(cfg, buffer.address)
        learner.publish(0)
        generation = learner.welcome.generation
        learner.client.send(TakeBatch(generation=generation, version=0))
        learner.batch()
        evidence = StepEvidence(ess=0.9, kl=0.01, wait_s=0.5, step_s=2.0)
        learner.client.send(StepDone(generation=generation, version=1, evidence=evidence))
        # eta is 0: without the weights of version 1 no ticket is issued
        learner.client.send(TakeBatch(generation=generation, version=1))
        wait_until("the step", lambda: request_status(buffer.address, 60.0, keys=cfg.buffer.keys).version == 1, 90.0)
        yield buffer
        for client in (learner.client, actor.client):
            client.close(0.0)


def keys_of(watched: BufferProcess) -> Path:
    return watched.paths.folder.parents[1] / "keys"


def test_the_endpoint_of_a_buffer_tells_its_ledger_and_that_it_serves(watched: BufferProcess) -> None:
    named = targets_of(watched.paths.folder)["buffer"]
    # a run that spans hosts is asked at any address of the host, by its name
    assert named.startswith(f"{socket.gethostname()}:")
    target = f"127.0.0.1:{named.rpartition(':')[2]}"

    def numbers() -> dict[tuple[str, str], float]:
        families = text_string_to_metric_families(fetch(target, "metrics"))
        return {(s.name, s.labels.get("state", "")): s.value for family in families for s in family.samples}

    # it is looked at once a second
    wait_until("two trained groups", lambda: numbers().get(("prolong_buffer_tickets", "trained")) == 2.0, 60.0)
    found = numbers()
    assert (found["prolong_buffer_version", ""], found["prolong_buffer_balanced", ""], found["prolong_up", ""]) == (1, 1, 1)
    assert 'prolong_buffer_actor_room{run="tested",role="buffer",process="buffer",actor="actor-0",pool=""} 8' in fetch(
        target, "metrics"
    )
    assert json.loads(fetch(target, "healthz")) | {"state_s": 0} == {
        "run": "tested",
        "role": "buffer",
        "process": "buffer",
        "alive": True,
        "ready": True,
        "state": "serves",
        "state_s": 0,
        "reason": "",
    }


def test_the_status_says_how_the_learner_gets_on(watched: BufferProcess) -> None:
    pace = request_status(watched.address, 60.0, keys=str(keys_of(watched))).pace
    assert pace is not None
    assert (pace.batch_groups, pace.num_steps, pace.step_s, pace.wait_s, pace.ess) == (2, 1, 2.0, 0.5, 0.9)
    assert pace.waits_s >= 0


def test_top_shows_a_running_run_by_its_folder_and_by_its_address(watched: BufferProcess) -> None:
    laptop = str(keys_of(watched) / "hosts" / "laptop")
    for target in ([str(watched.paths.folder)], [watched.address, "--keys", laptop]):
        done = subprocess.run([*CLI, "top", *target, "--once"], capture_output=True, text=True, timeout=150, check=True)
        for said in ("tested", "version 1 of 4", "0 of 2 groups stored", "waits for", "actor-0"):
            assert said in done.stdout


def test_top_on_a_terminal_leaves_when_q_is_pressed(watched: BufferProcess) -> None:
    ours, theirs = pty.openpty()
    command = [*CLI, "top", str(watched.paths.folder), "--every", "0.2"]
    top = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=os.environ | {"TERM": "xterm"})
    try:
        os.close(theirs)
        page = b""
        while b"actor-0" not in page:
            page += os.read(ours, 4096)
        os.write(ours, b"sq")
        # a terminal is read to its end, or its program could not write any more
        while top.poll() is None:
            try:
                os.read(ours, 4096)
            except OSError:
                break
        assert top.wait(60) == 0
    finally:
        os.close(ours)
        top.kill()
        top.wait(60)

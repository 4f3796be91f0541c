"""The message of docs/extending.md in a copy of the product: a real actor sends it, a real buffer shows it in its status."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from prolong.buffer.client.observer import request_status
from prolong.common.config.choices import EngineKind
from prolong.common.config.run_files import run_paths, save_config

from tests.support.buffer_process import BufferProcess, make_config
from tests.support.extension import ROOT, diff_of, extended_tree, touched_files
from tests.support.runs import wait_until
from tests.support.tiny_model import make_tiny_model

HEADING = "A message"
# the message crosses Session, wire and core, without processes
ROUND_TRIP = """
from collections import Counter
from prolong.buffer.client.session import Session
from prolong.common import messages as m
from prolong.common.transport.wire import Decoder, encode

hello = m.Hello(role=m.Role.actor, name="actor-0", protocol=m.PROTOCOL_VERSION, tokenizer="t", host="h", pid=1)
session = Session(hello, "nowhere", 0.0, 10.0, Counter())
session.connected(0.0)
session.tick(0.0)
session.receive(m.Welcome(generation=1, heartbeat_s=1.0, lease_s=10.0, version=0), 0.0)
session.out.clear()
message = m.EngineName(name="transformers")
session.submit(message, encode(message))
(_, frame), = session.out
assert Decoder(m.FromClient, 1 << 20).decode(frame) == message
assert message.senders == {m.Role.actor}
"""
ACTOR = """
from pathlib import Path
from prolong.actor.main import main
from prolong.common.config.run_files import load_config
main(load_config(Path({!r})), "actor-0")
"""


@pytest.mark.timeout(600)
def test_the_status_shows_what_the_actor_reports(tmp_path: Path) -> None:
    environment = extended_tree(HEADING, tmp_path / "tree") | {"OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", ROUND_TRIP], env=environment, check=True, timeout=120)
    cfg = make_config(tmp_path, silence_s=20.0)
    cfg.model.path, cfg.model.max_context = str(make_tiny_model(tmp_path / "tiny", tied=True, vocab=96)), 128
    cfg.model.dtype, cfg.actor.engine = "float32", EngineKind.transformers
    with BufferProcess(cfg, environment=environment) as buffer:
        cfg.buffer.address = buffer.address
        config = run_paths(cfg).config.with_name("actor.yaml")
        save_config(cfg, config)
        actor = subprocess.Popen([sys.executable, "-c", ACTOR.format(str(config))], env=environment)
        try:
            engine = wait_until(
                "the actor's engine in the status",
                lambda: request_status(buffer.address, 60.0).peers.get("actor-0", {}).get("engine"),
                240.0,
            )
            assert engine == "transformers"
        finally:
            actor.kill()
            actor.wait(10)


@pytest.mark.timeout(600)
def test_pyright_finds_a_handler_that_was_forgotten(tmp_path: Path) -> None:
    extended_tree(HEADING, tmp_path / "tree")
    core = tmp_path / "tree" / "prolong" / "buffer" / "core" / "core.py"
    assert errors_of(core) == []
    core.write_text((ROOT / "buffer" / "core" / "core.py").read_text())
    (error,) = errors_of(core)
    assert re.search(r'"EngineName" cannot be assigned to parameter "arg" of type "Never"', error)


def errors_of(path: Path) -> list[str]:
    """Messages of pyright's errors in one file."""
    done = subprocess.run(
        [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, str(path)],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    return [entry["message"] for entry in json.loads(done.stdout)["generalDiagnostics"] if entry["severity"] == "error"]


def test_it_touches_three_files() -> None:
    assert touched_files(diff_of(HEADING)) == ["common/messages.py", "buffer/core/core.py", "actor/main.py"]

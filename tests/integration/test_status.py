"""`prolong status` of a real buffer, and of the run folder that it leaves."""

import json
import signal
import subprocess
from pathlib import Path

from tests.support.runs import CLI, free_port, wait_until
from tests.support.tiny_model import make_tiny_model

PROMPT = {"prompt": "1+1=?", "domain": "math", "task": "addition", "verifier": "number", "answer": {"answer": "2"}}


def status(folder: Path) -> tuple[int, dict, str]:
    done = subprocess.run([*CLI, "status", str(folder), "--json"], capture_output=True, text=True, timeout=150, check=False)
    return done.returncode, json.loads(done.stdout or "{}"), done.stderr


def test_status_asks_a_living_buffer_and_reports_a_run_that_was_stopped(tmp_path: Path) -> None:
    model = make_tiny_model(tmp_path / "model", tied=True)
    (tmp_path / "prompts.jsonl").write_text(json.dumps(PROMPT) + "\n")
    folder = tmp_path / "r"
    settings = ["run.name=r", f"run.root={tmp_path}", f"model={model}", "model.max_context=128", "sampling.max_tokens=64"]
    settings += [f"data.train=[{{file: {tmp_path}/prompts.jsonl}}]", f"buffer.address=tcp://127.0.0.1:{free_port()}"]
    with (tmp_path / "log").open("wb") as log:
        buffer = subprocess.Popen([*CLI, "buffer", *settings], stdout=log, stderr=log)
    try:
        wait_until("buffer.json", (folder / "buffer.json").exists, 150)
        code, known, _ = status(folder)
        assert code == 0
        assert (known["state"], known["run"], known["balanced"]) == ("live", "r", True)
        assert known["ledger"]["total"] == 0
    finally:
        buffer.send_signal(signal.SIGTERM)
        assert buffer.wait(60) == 0, (tmp_path / "log").read_text()
    code, known, _ = status(folder)
    assert (code, known["state"], known["ledger"]) == (0, "stopped", None)


def test_an_unknown_run_is_one_sentence(tmp_path: Path) -> None:
    code, _, stderr = status(tmp_path / "nowhere")
    assert code == 2
    assert stderr.startswith("prolong status: run '")
    assert stderr.count("\n") == 1

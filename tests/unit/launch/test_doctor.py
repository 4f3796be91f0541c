"""The doctor names what would stop a run, and only that fails."""

from pathlib import Path

import pytest
from prolong.common.errors import UserError
from prolong.launch import doctor
from prolong.verifiers.sandbox import opening
from prolong.verifiers.sandbox.sandbox import Sandbox

from tests.support.sandboxes import BACKENDS, missing


@pytest.fixture
def lines(capfd: pytest.CaptureFixture[str]):
    def examine(recipe: str = "", *overrides: str) -> tuple[int, dict[str, str]]:
        code = doctor.examine(recipe, list(overrides))
        return code, {line[6:28].strip(): line[:5].strip() + " " + line[29:] for line in capfd.readouterr().out.splitlines()}

    return examine


def test_it_says_which_sandbox_is_in_force_and_what_it_proved(lines) -> None:
    usable = [backend.name for backend in BACKENDS.values() if not missing(backend)]
    if not usable:
        pytest.skip("this machine has no sandbox at all")
    _, found = lines()
    assert found["sandbox"].startswith(f"ok {usable[0]}: ")
    assert "no network" in found["sandbox"]
    assert "memory bounded" in found["sandbox"]


def test_a_machine_without_a_sandbox_is_a_note_with_the_cure(lines, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> Sandbox:
        raise UserError("no sandbox for untrusted code on this machine: install bubblewrap")

    monkeypatch.setattr(opening, "open_sandbox", refuse)
    code, found = lines()
    assert found["sandbox"].startswith("note")
    assert "install bubblewrap" in found["sandbox"]
    assert code == 0


def test_a_run_that_cannot_start_fails_with_its_reason(lines, tmp_path: Path) -> None:
    code, found = lines("demo", f"model.path={tmp_path}/nowhere", f"run.root={tmp_path}")
    assert code == 2
    assert found["model"].startswith("FAIL")
    assert "nowhere" in found["model"]


def test_what_is_wrong_with_a_pool_is_a_finding(lines, demo_model: Path, tmp_path: Path) -> None:
    fixed = [f"model.path={demo_model}", f"run.root={tmp_path}", f"data.train=[{{file: {demo_model}/train.jsonl}}]"]
    fixed += ["data.heldout=[]", "buffer.address=tcp://127.0.0.1:0"]
    assert lines("demo_pools", *fixed)[1]["pools"] == "ok fine"
    code, found = lines("demo_pools", *fixed, "pools.large.actor.engine_args={enforce_eger: true}")
    assert code == 2
    assert found["pools"].startswith("FAIL pool large (pools.large): actor.engine_args.enforce_eger = True: this vLLM has no")


def test_a_learner_that_no_other_host_can_pull_from_is_a_note(lines, demo_model: Path, tmp_path: Path) -> None:
    fixed = [f"model.path={demo_model}", f"run.root={tmp_path}", f"data.train=[{{file: {demo_model}/train.jsonl}}]"]
    _, found = lines("demo", *fixed, "data.heldout=[]", "weights.transport=pull", "buffer.address=tcp://0.0.0.0:0")
    assert found["pulled weights"].startswith("note weights.host = 127.0.0.1: only this machine can pull")
    _, found = lines("demo", *fixed, "data.heldout=[]", "weights.transport=pull", "buffer.address=tcp://127.0.0.1:0")
    assert found["pulled weights"] == "ok fine"

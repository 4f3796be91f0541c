"""Where vLLM puts its sockets: in a folder that goes with its engine."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from prolong.actor.engines.vllm.socket_folder import MAX_SOCKET_PATH, socket_folder, sockets_in

VARIABLE = "VLLM_RPC_BASE_PATH"
UUID = "0b6f4b0e-7a0e-4b53-9a3e-3d1d1a0f2c55"


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.delenv(VARIABLE, raising=False)
    return tmp_path


def test_vllm_is_told_of_the_folder_while_an_engine_starts_and_it_stays_with_the_engine() -> None:
    folder = socket_folder()
    with sockets_in(folder):
        assert os.environ[VARIABLE] == str(folder.path)
        assert folder.path.is_dir()
    assert VARIABLE not in os.environ
    (folder.path / UUID).touch()
    folder.remove()
    assert not folder.path.exists()


def test_an_engine_that_does_not_start_leaves_no_folder() -> None:
    folder = socket_folder()
    with pytest.raises(OSError, match="no memory"), sockets_in(folder):
        raise OSError("no memory")
    assert not folder.path.exists()
    assert VARIABLE not in os.environ


def test_a_folder_that_the_user_named_is_used_and_left_alone(monkeypatch: pytest.MonkeyPatch, temporary: Path) -> None:
    monkeypatch.setenv(VARIABLE, "/mine")
    folder = socket_folder()
    with sockets_in(folder):
        assert os.environ[VARIABLE] == "/mine"
    assert os.environ[VARIABLE] == "/mine"
    assert not folder.path.exists()
    folder.remove()


@pytest.mark.parametrize(("length", "fits"), [(40, True), (41, False), (80, False)])
def test_the_path_of_a_socket_is_never_too_long(length: int, fits: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    root = "/" + "t" * (length - 1)
    monkeypatch.setattr(tempfile, "tempdir", root)
    folder = socket_folder().path
    assert len(str(folder / UUID)) <= MAX_SOCKET_PATH
    assert folder.parent == Path(root if fits else "/tmp")

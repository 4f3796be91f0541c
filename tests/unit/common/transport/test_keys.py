"""Keys in files: only their owner reads secrets, a second call replaces no key, and a file without a key is explained."""

from pathlib import Path

import pytest
import zmq
from prolong.common.errors import ConfigError, UserError
from prolong.common.transport.keys import load_buffer_keys, load_client_keys, make_keys, read_allowed


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_keys(tmp_path / "keys", ["gpu-1"])
    return tmp_path / "keys"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_pair_fits_and_every_client_is_allowed(folder):
    buffer = load_buffer_keys(str(folder))
    local, other = load_client_keys(str(folder)), load_client_keys(str(folder / "hosts" / "gpu-1"))
    assert buffer is not None
    assert local is not None
    assert other is not None
    assert local.buffer == other.buffer == zmq.curve_public(buffer.secret)
    assert read_allowed(buffer.allowed) == {local.public: "local", other.public: "gpu-1"}
    assert len({buffer.secret, local.secret, other.secret}) == 3


def test_secrets_are_for_their_owner_alone_and_no_other_file_holds_one(folder):
    secrets = {name for name in contents(folder) if name.endswith(".key")}
    assert secrets == {"server.key", "client.key", "hosts/gpu-1/client.key"}
    assert {(folder / name).stat().st_mode & 0o777 for name in secrets} == {0o600}
    assert folder.stat().st_mode & 0o077 == 0


def test_a_second_call_adds_what_is_missing_and_keeps_the_rest(folder):
    before = contents(folder)
    assert make_keys(folder, ["gpu-1", "gpu-2"]) == ["gpu-2"]
    assert contents(folder).items() > before.items()


def test_a_key_that_was_taken_away_is_not_let_in_again(folder):
    stolen = load_client_keys(str(folder / "hosts" / "gpu-1"))
    (folder / "allowed" / "gpu-1.pub").unlink()
    assert make_keys(folder, ["gpu-1"]) == ["gpu-1"]
    assert stolen is not None
    assert stolen.public not in read_allowed(folder / "allowed")


def test_a_clients_folder_is_not_made_a_buffers(folder):
    with pytest.raises(UserError, match=r"holds the keys of a client"):
        make_keys(folder / "hosts" / "gpu-1", [])


@pytest.mark.parametrize("name", ["", "..", "a/b", "local", "x" * 65, "-x"])
def test_a_name_that_cannot_be_a_folder_is_refused(tmp_path, name):
    with pytest.raises(UserError, match=r"expected letters, digits"):
        make_keys(tmp_path / "keys", [name])
    assert not (tmp_path / "keys").exists()


def test_what_cannot_be_used_is_explained(folder):
    with pytest.raises(ConfigError, match=r"nowhere/client.key cannot be read .*`prolong keys"):
        load_client_keys(str(folder / "nowhere"))
    with pytest.raises(ConfigError, match=r"gpu-1/server.key cannot be read"):
        load_buffer_keys(str(folder / "hosts" / "gpu-1"))
    (folder / "client.key").chmod(0o640)
    with pytest.raises(ConfigError, match=r"that others can read.*chmod 600"):
        load_client_keys(str(folder))
    for text in ("", "short", '"' * 40, "x" * 41):
        (folder / "server.pub").write_text(text)
        (folder / "client.key").chmod(0o600)
        with pytest.raises(ConfigError, match=r"server.pub holds \d+ bytes that are no key"):
            load_client_keys(str(folder))
    for path in (folder / "allowed").iterdir():
        path.unlink()
    with pytest.raises(ConfigError, match=r"expected at least one public key"):
        load_buffer_keys(str(folder))


def test_no_folder_is_no_keys():
    assert load_client_keys("") is None
    assert load_buffer_keys("") is None

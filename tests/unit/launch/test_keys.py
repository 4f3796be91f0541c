"""`prolong keys` says what to copy where."""

from pathlib import Path

import pytest
from prolong.common.config.sections import BufferConfig, Config
from prolong.common.errors import ConfigError, UserError
from prolong.launch import cli, keys
from prolong.launch.local.preflight import check_keys


def test_it_makes_a_pair_per_client_and_says_where_each_belongs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "keys"
    assert cli.main(["keys", str(folder), "gpu-1", "--clients", "2"]) == 0
    said = capsys.readouterr().out
    for name in ("gpu-1", "client-1", "client-2"):
        assert f"{name}: copy {folder / 'hosts' / name} to its host" in said
        assert (folder / "hosts" / name / "client.key").exists()
    assert f"buffer.keys={folder}" in said
    assert (folder / "server.key").read_text().strip() not in said
    assert cli.main(["keys", str(folder), "gpu-1"]) == 0
    assert "gpu-1: has a key already" in capsys.readouterr().out


def test_a_number_of_clients_out_of_range_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--clients -1: expected"):
        keys.write_run_keys(tmp_path, [], -1)


def test_a_run_beyond_loopback_is_refused_before_it_starts_unless_it_has_keys(tmp_path: Path) -> None:
    address = "tcp://0.0.0.0:5710"
    with pytest.raises(ConfigError, match="or keys: make them with `prolong keys"):
        check_keys(Config(buffer=BufferConfig(address=address)))
    keys.write_run_keys(tmp_path, [], 0)
    check_keys(Config(buffer=BufferConfig(address=address, keys=str(tmp_path))))
    check_keys(Config(buffer=BufferConfig()))

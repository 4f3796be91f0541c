"""A file is replaced whole or not at all."""

import os
import stat

import pytest
from prolong.common.files import atomic_replacement, write_atomically


def test_text_and_bytes_replace_the_former_file_and_leave_no_scratch_file(tmp_path):
    path = tmp_path / "note"
    write_atomically(path, "é")
    assert path.read_bytes() == b"\xc3\xa9"
    write_atomically(path, b"\x00", durable=True)
    assert path.read_bytes() == b"\x00"
    assert list(tmp_path.iterdir()) == [path]


def test_the_former_file_stands_until_the_rename(tmp_path):
    path = tmp_path / "note"
    path.write_text("before")
    with atomic_replacement(path) as scratch:
        scratch.write_text("after")
        assert (path.read_text(), scratch.parent) == ("before", path.parent)
    assert path.read_text() == "after"


def test_an_error_leaves_the_former_file_and_no_scratch_file(tmp_path):
    path = tmp_path / "note"
    path.write_text("before")
    with pytest.raises(KeyboardInterrupt):
        interrupted_write(path)
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def interrupted_write(path):
    with atomic_replacement(path) as scratch:
        scratch.write_text("half")
        raise KeyboardInterrupt


def test_a_secret_has_its_mode_even_where_a_dead_process_left_a_readable_scratch_file(tmp_path):
    path = tmp_path / "secret.key"
    left_over = tmp_path / f".{path.name}.{os.getpid()}"
    left_over.write_text("something longer than the key")
    left_over.chmod(0o666)
    write_atomically(path, b"key", mode=0o600)
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (b"key", 0o600)

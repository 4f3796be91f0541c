"""The gate's answers to libzmq's requests: known keys are admitted, all others are refused and counted."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import zmq
from prolong.common.transport.gate import ENDPOINT, VERSION, Admitted, AllowedFolder, Gate
from prolong.common.transport.keys import load_buffer_keys, make_keys
from zmq.utils import z85


class Asker:
    """libzmq's side of the protocol, and the gate that it asks."""

    def __init__(self, admitted: Admitted) -> None:
        self.context = zmq.Context()
        self.gate = Gate(self.context, admitted)
        self.socket = self.context.socket(zmq.REQ)
        self.socket.connect(ENDPOINT)
        self.num_refused = 0

    def close(self) -> None:
        self.socket.close(linger=0)
        self.gate.close()
        self.context.term()

    def ask(self, public: bytes, *, mechanism: bytes = b"CURVE", version: bytes = VERSION) -> list[bytes]:
        """Status code, status text and user id of the answer."""
        self.socket.send_multipart([version, b"7", b"prolong", b"10.0.0.9", b"id", mechanism, z85.decode(public)])
        assert self.gate.socket.poll(60_000)
        self.num_refused += self.gate.answer()
        assert self.socket.poll(60_000)
        reply = self.socket.recv_multipart()
        assert reply[:2] == [VERSION, b"7"]
        return reply[2:5]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_keys(tmp_path / "keys", ["gpu-1"])
    return tmp_path / "keys"


@pytest.fixture
def asker(folder: Path) -> Iterator[Asker]:
    keys = load_buffer_keys(str(folder))
    assert keys is not None
    asker = Asker(AllowedFolder(keys.allowed))
    yield asker
    asker.close()


def public_key(folder: Path, name: str) -> bytes:
    return (folder / "allowed" / f"{name}.pub").read_bytes().strip()


def test_a_known_key_is_admitted_under_the_name_of_its_file(folder: Path, asker: Asker) -> None:
    assert asker.ask(public_key(folder, "gpu-1")) == [b"200", b"OK", b"gpu-1"]
    assert asker.ask(public_key(folder, "local")) == [b"200", b"OK", b"local"]
    assert asker.num_refused == 0


def test_an_unknown_key_and_a_malformed_request_are_refused_and_counted(folder: Path, asker: Asker) -> None:
    stranger, _ = zmq.curve_keypair()
    known = public_key(folder, "gpu-1")
    assert asker.ask(stranger)[:2] == [b"400", b"unknown key"]
    assert asker.ask(known, mechanism=b"PLAIN")[0] == b"400"
    assert asker.ask(known, version=b"2.0")[0] == b"400"
    assert asker.num_refused == 3


def test_keys_that_are_added_or_removed_count_from_the_next_connection_on(folder: Path, asker: Asker) -> None:
    make_keys(folder, ["gpu-2"])
    added = public_key(folder, "gpu-2")
    assert asker.ask(added)[0] == b"200"
    (folder / "allowed" / "gpu-2.pub").unlink()
    assert asker.ask(added)[0] == b"400"


def test_a_folder_that_cannot_be_read_leaves_the_keys_known_before(folder: Path, asker: Asker) -> None:
    known = public_key(folder, "gpu-1")
    assert asker.ask(known)[0] == b"200"
    (folder / "allowed" / "broken.pub").write_text("no key")
    assert asker.ask(known)[0] == b"200"


def test_answering_without_requests_does_nothing(asker: Asker) -> None:
    assert asker.gate.answer() == 0


def test_keys_may_come_from_a_call_and_change_between_two_requests() -> None:
    public, _ = zmq.curve_keypair()
    admitted: dict[bytes, str] = {}
    with closing(Asker(lambda: admitted)) as asker:
        assert asker.ask(public)[0] == b"400"
        admitted[public] = "relay"
        assert asker.ask(public) == [b"200", b"OK", b"relay"]
        admitted.clear()
        assert asker.ask(public)[0] == b"400"

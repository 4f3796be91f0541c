"""CURVE keys: they identify the buffer and the clients that it admits. `prolong keys` makes a folder of them.

    FOLDER/server.key             secret of the buffer; stays on its host
           server.pub             identifies the buffer to its clients
           client.key             secret of the clients on the buffer's host (learner, status, ...)
           allowed/NAME.pub       a client that may connect
           hosts/NAME/            to be copied to another host as its FOLDER: client.key and server.pub

Each file holds one key of 40 characters (Z85) and nothing else; only its owner may read a secret (mode 0600).
Source: https://rfc.zeromq.org/spec/26/ (CurveZMQ), http://api.zeromq.org/4-3:zmq-curve
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import zmq
from zmq.utils import z85

from ..errors import ConfigError, UserError
from ..files import write_atomically

LOCAL = "local"  # the client whose key is FOLDER/client.key
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
KEY_CHARACTERS = 40
READABLE_BY_OTHERS = 0o077


@dataclass(frozen=True, slots=True)
class ClientKeys:
    """A client's own pair, and the public key of the one buffer that it talks to."""

    secret: bytes  # Z85, as all keys here
    public: bytes
    buffer: bytes


@dataclass(frozen=True, slots=True)
class BufferKeys:
    """The buffer's secret, and the folder of the keys that it admits."""

    secret: bytes
    allowed: Path  # folder of the admitted public keys; read again when it changes


def load_client_keys(folder: str) -> ClientKeys | None:
    """The keys of a client in the folder `buffer.keys`; None when no folder is named. Raises: ConfigError."""
    if not folder:
        return None
    secret = _read_secret(Path(folder) / "client.key")
    return ClientKeys(secret=secret, public=zmq.curve_public(secret), buffer=_read_key(Path(folder) / "server.pub"))


def load_buffer_keys(folder: str) -> BufferKeys | None:
    """The keys of the buffer in the folder `buffer.keys`; None when no folder is named. Raises: ConfigError."""
    if not folder:
        return None
    keys = BufferKeys(secret=_read_secret(Path(folder) / "server.key"), allowed=Path(folder) / "allowed")
    if not read_allowed(keys.allowed):
        raise ConfigError(f"buffer.keys = {folder!r}: expected at least one public key in {keys.allowed}; {_advice(folder)}")
    return keys


def read_allowed(folder: Path) -> dict[bytes, str]:
    """Public key -> name of each client that may connect. Raises: ConfigError for a file that holds no key."""
    return {_read_key(path): path.stem for path in sorted(folder.glob("*.pub"))}


def make_keys(folder: Path, names: list[str]) -> list[str]:
    """Make the keys that are missing: the buffer's pair, one for the clients of its own host, and one for each name.

    Returns the new names. Raises: UserError for a name that cannot be a folder, or for a client's folder.
    """
    for name in names:
        if not NAME.fullmatch(name) or name == LOCAL:
            raise UserError(f"name {name!r}: expected letters, digits, '.', '_' and '-', 64 at most, and not {LOCAL!r}")
    if (folder / "client.key").exists() and not (folder / "server.key").exists():
        raise UserError(f"{folder} holds the keys of a client: run `prolong keys` where server.key is, or name another folder")
    _private_folder(folder)
    (folder / "allowed").mkdir(exist_ok=True)
    buffer = zmq.curve_public(_make_secret(folder / "server.key"))
    write_atomically(folder / "server.pub", buffer + b"\n", mode=0o644)
    homes = {LOCAL: folder} | {name: folder / "hosts" / name for name in names}
    added = [name for name in homes if not (folder / "allowed" / f"{name}.pub").exists()]
    for name in added:
        # a key that was removed from allowed/ is never admitted again: the new one is another key
        public, secret = zmq.curve_keypair()
        _private_folder(homes[name])
        write_atomically(homes[name] / "client.key", secret + b"\n", mode=0o600)
        write_atomically(homes[name] / "server.pub", buffer + b"\n", mode=0o644)
        write_atomically(folder / "allowed" / f"{name}.pub", public + b"\n", mode=0o644)
    return [name for name in added if name != LOCAL]


def _private_folder(folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)


def _make_secret(path: Path) -> bytes:
    """The secret in `path`; a new one is drawn if there is none."""
    if path.exists():
        return _read_secret(path)
    _, secret = zmq.curve_keypair()
    write_atomically(path, secret + b"\n", mode=0o600)
    return secret


def _read_secret(path: Path) -> bytes:
    key = _read_key(path)
    if path.stat().st_mode & READABLE_BY_OTHERS:
        raise ConfigError(f"{path}: a secret that others can read; expected mode 0600: chmod 600 {path}")
    return key


def _read_key(path: Path) -> bytes:
    try:
        key = path.read_bytes().strip()
    except OSError as error:
        raise ConfigError(f"buffer.keys: {path} cannot be read ({error.strerror}); {_advice(str(path.parent))}") from error
    try:
        sound = len(key) == KEY_CHARACTERS and len(z85.decode(key)) == 32
    except (KeyError, ValueError, OverflowError, zmq.ZMQError):
        sound = False
    if not sound:
        raise ConfigError(f"buffer.keys: {path} holds {len(key)} bytes that are no key; expected {KEY_CHARACTERS} of Z85")
    return key


def _advice(folder: str) -> str:
    return f"`prolong keys {folder}` makes keys on the buffer's host, and says what to copy to the others"

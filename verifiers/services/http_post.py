"""One HTTP POST of JSON with asyncio: bounded in time and in bytes, cancellable, and without redirects or proxies.

A redirect would carry the API key to another host, so it is an answer like any other.
"""

from __future__ import annotations

import asyncio
import io
import json
import ssl
from dataclasses import dataclass
from functools import cache
from http.client import HTTPException, HTTPMessage, parse_headers
from urllib.parse import urlsplit

from ...common.errors import ConfigError
from ...common.json_object import JsonObject

MAX_REPLY_BYTES = 1 << 20
MAX_HEADER_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where requests go."""

    host: str
    port: int
    path: str
    tls: bool

    @classmethod
    def parse(cls, key: str, url: str) -> Endpoint:
        """Raises ConfigError, naming the setting `key`, unless `url` is an http address without user and password."""
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise ConfigError(f"{key} = {url!r}: {error}") from error
        if parts.username or parts.password:
            raise ConfigError(f"{key}: an address with a user or a password; name the key with verifiers.judge.api_key_env")
        if parts.scheme not in ("http", "https") or not parts.hostname or any(char.isspace() for char in url):
            raise ConfigError(f"{key} = {url!r}: expected an address such as http://127.0.0.1:8000/v1")
        tls = parts.scheme == "https"
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return cls(parts.hostname, port or (443 if tls else 80), path, tls)


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer of any status."""

    status: int
    headers: HTTPMessage
    body: bytes


async def post_json(endpoint: Endpoint, headers: dict[str, str], body: JsonObject, timeout_s: float) -> Reply:
    """POST and read the whole answer within `timeout_s`. Raises OSError (TimeoutError too), ValueError for what is no HTTP."""
    payload = json.dumps(body).encode()
    host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
    lines = [f"POST {endpoint.path} HTTP/1.1", f"Host: {host}:{endpoint.port}", "Connection: close", "Accept: application/json"]
    lines += ["Content-Type: application/json", f"Content-Length: {len(payload)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    context = _certificates() if endpoint.tls else None
    async with asyncio.timeout(timeout_s):
        reader, writer = await asyncio.open_connection(endpoint.host, endpoint.port, ssl=context, limit=MAX_HEADER_BYTES)
        try:
            writer.write("\r\n".join([*lines, "", ""]).encode("latin-1") + payload)
            await writer.drain()
            return await _read(reader)
        except asyncio.IncompleteReadError as error:
            raise ConnectionResetError("the connection was closed before the answer was whole") from error
        except (asyncio.LimitOverrunError, HTTPException) as error:
            raise ValueError(f"the answer is no HTTP: {error!r:.100}") from error
        finally:
            writer.transport.abort()


@cache  # reading them takes tens of milliseconds, in which nothing else runs
def _certificates() -> ssl.SSLContext:
    return ssl.create_default_context()


async def _read(reader: asyncio.StreamReader) -> Reply:
    first, _, rest = (await reader.readuntil(b"\r\n\r\n")).partition(b"\r\n")
    words = first.split()
    if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or not words[1].isdigit():
        raise ValueError(f"the answer is no HTTP: {first[:60]!r}")
    headers = parse_headers(io.BytesIO(rest))
    if "chunked" in headers.get("Transfer-Encoding", "").lower():
        body = await _chunks(reader)
    elif (length := headers.get("Content-Length", "")).isdigit():
        body = await reader.readexactly(_bounded(int(length)))
    else:
        body = await reader.read(MAX_REPLY_BYTES + 1)
        while len(body) <= MAX_REPLY_BYTES and (more := await reader.read(MAX_REPLY_BYTES)):
            body += more
        _bounded(len(body))
    return Reply(int(words[1]), headers, body)


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    body = b""
    while size := int((await reader.readuntil(b"\r\n")).partition(b";")[0].strip(), 16):
        _bounded(len(body) + size)
        body += await reader.readexactly(size)
        await reader.readexactly(2)
    return body


def _bounded(size: int) -> int:
    if not 0 <= size <= MAX_REPLY_BYTES:
        raise ValueError(f"an answer of more than {MAX_REPLY_BYTES} bytes")
    return size

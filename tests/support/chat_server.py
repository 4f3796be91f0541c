"""A chat-completions endpoint on localhost whose replies a test scripts, in the place of a model that judges."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

Script = Callable[[dict[str, Any], int], "str | bytes | int | None"]


@dataclass
class ChatServer:
    """script(request, number of this request) -> the judge's text, a whole body, an HTTP status, or None for no reply."""

    script: Script
    port: int = 0
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[str] = field(default_factory=list)
    in_flight: int = 0
    most_in_flight: int = 0
    hold: asyncio.Event | None = None  # replies wait for it
    arrivals: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))  # released by every request

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            length = int(next(line.split(":")[1] for line in head.lower().splitlines() if line.startswith("content-length")))
            self.headers.append(head)
            self.requests.append(json.loads(await reader.readexactly(length)))
            number = len(self.requests)
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
            self.arrivals.release()
            if self.hold is not None:
                await self.hold.wait()
            reply = self.script(self.requests[-1], number)
            if reply is None:
                await reader.read()  # silent until the other end gives up
            else:
                writer.write(_response(reply))
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.in_flight -= 1
            writer.close()


def _response(reply: str | bytes | int) -> bytes:
    status, body = 200, reply
    if isinstance(reply, int):
        status, body = reply, b'{"error": "scripted"}'
    if isinstance(reply, str):
        body = json.dumps({"choices": [{"message": {"role": "assistant", "content": reply}}]}).encode()
    assert isinstance(body, bytes)
    extra = "Retry-After: 0\r\n" if status == 429 else "Location: http://127.0.0.1:1/\r\n" if status == 302 else ""
    return f"HTTP/1.1 {status} X\r\n{extra}Content-Length: {len(body)}\r\n\r\n".encode() + body


@asynccontextmanager
async def chat_server(script: Script) -> AsyncIterator[ChatServer]:
    """A server that listens until the block ends."""
    served = ChatServer(script)
    server = await asyncio.start_server(served.serve, "127.0.0.1", 0)
    served.port = server.sockets[0].getsockname()[1]
    try:
        yield served
    finally:
        server.close()


def student_text(request: dict[str, Any]) -> str:
    """What the request shows as the student's answer, as a judge that obeys the fences reads it."""
    lines = request["messages"][1]["content"].split("\n")
    fences = [at for at, line in enumerate(lines) if line.startswith("-----")]
    assert len(fences) == 2, "the fence must be there twice, whatever the student wrote"
    assert fences[1] == fences[0] + 2, "the student's text is one line"
    return json.loads(lines[fences[0] + 1])

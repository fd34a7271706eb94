"""Two simulated MXs: one that speaks correct HTTP, and one that sends any bytes that a test wants."""

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

USER = "USR-fa7537f3-48aa-a683-a02a-b18940482f54"
MEMBER = "MBR-7c6f361b-e582-15b6-60c0-358f12466b4b"
STATE = "d273e4f71bc095cf16c4acbee011caf4"
URI = f"https://mxbank.mx.com/oauth/authorize?client_id=b8Oik&response_type=code&state={STATE}"
BODY = json.dumps(
    {"member": {"guid": MEMBER, "connection_status": "DENIED", "user_guid": USER, "oauth_window_uri": URI}}
).encode()
KEY, CLIENT_ID = "key-7f3a9d", "client-91bc02"


def http(body: bytes = BODY, status: str = "200 OK", headers: str = "") -> bytes:
    """A whole HTTP answer."""
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode() + body


class Mx:
    """A web server. Each request gets the next of ``answers``; the last one is repeated."""

    def __init__(self, *answers: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> None:
        self.url = ""
        self.answers = list(answers)
        self.requests: list[web.Request] = []
        self.peers: set[Any] = set()
        self.under_way = self.most_under_way = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        self.peers.add(request.transport.get_extra_info("peername"))
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
            return await answer(request)
        finally:
            self.under_way -= 1


class Wire:
    """A server that calls ``answer(writer, n)`` after the head of the n-th request, from 1. It closes the connection if that returns True."""

    def __init__(self, answer: Callable[[asyncio.StreamWriter, int], Awaitable[bool | None]]) -> None:
        self.answer = answer
        self.heads: list[bytes] = []
        self.connections = 0
        self._open: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(asyncio.current_task())
        self.connections += 1
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                self.heads.append(await reader.readuntil(b"\r\n\r\n"))
                if await self.answer(writer, len(self.heads)):
                    break
                await writer.drain()
        writer.close()

    async def close(self) -> None:
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)


def reset(writer: asyncio.StreamWriter) -> None:
    """Drop the connection with a TCP reset."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def saying(
    status: int = 200, body: bytes | str = BODY, **headers: str
) -> Callable[[web.Request], Awaitable[web.Response]]:
    """Makes an answer for :class:`Mx`. Further arguments are headers: ``Retry_After="1"``."""
    body = body.encode() if isinstance(body, str) else body

    async def answer(_request: web.Request) -> web.Response:
        return web.Response(
            status=status, body=body, headers={name.replace("_", "-"): value for name, value in headers.items()}
        )

    return answer

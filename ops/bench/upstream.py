"""A lean MX: HTTP/1.1 with keep-alive on a raw protocol under uvloop. It answers after a fixed time.

It parses only the parts of a request that it needs, so that the client is the bottleneck. Its answer is a valid Atrium body for the
requested member, with a new ``state`` each time.

``GET /bench/set?…`` sets its knobs and sets its figures to zero, ``GET /bench/stats`` shows the figures.
"""

import asyncio
import json
import re
import secrets
import socket
import time
from collections import deque
from itertools import count
from typing import cast
from urllib.parse import parse_qsl

from ops.bench.population import user_guid

#: How often the course of requests is recorded (seconds).
NOTE_EVERY = 0.05

_ASKED = re.compile(rb"GET /users/([^/ ]+)/members/([^/? ]+)")

_BODY = (
    b'{"member":{"aggregated_at":"2016-10-13T18:07:57+00:00","connection_status":"DENIED","guid":"%b",'
    b'"identifier":"unique_id","institution_code":"mx_bank_oauth","is_being_aggregated":false,'
    b'"metadata":"{\\"credentials_last_refreshed_at\\": \\"2015-10-15\\"}","name":"MX Bank (OAuth)",'
    b'"oauth_window_uri":"https://mxbank.mx.com/oauth/authorize?client_id=b8OikQ4Ep3NuSUrQ13DdvFuwpNx-qqoAsJDVAQCyLkQ'
    b"&redirect_uri=https%%3A%%2F%%2Fint-app.moneydesktop.com%%2Foauth%%2Fredirect_from&response_type=code&scope=openid"
    b'&state=%b","status":"COMPLETED","successfully_aggregated_at":"2016-10-13T17:57:38+00:00","user_guid":"%b"}}'
)
_LISTED = re.compile(rb"GET /users\?page=([0-9]+)&records_per_page=([0-9]+) ")
_LISTED_FOR = re.compile(rb"GET /users/([^/ ]+)/members\?")
_ROW = (
    b'{"aggregated_at":"2016-10-13T18:07:57+00:00","connection_status":"CONNECTED","guid":"%b","identifier":"unique_id",'
    b'"institution_code":"mx_bank_oauth","is_being_aggregated":false,"is_oauth":true,'
    b'"metadata":"{\\"credentials_last_refreshed_at\\": \\"2015-10-15\\"}","name":"MX Bank (OAuth)","status":"COMPLETED",'
    b'"successfully_aggregated_at":"2016-10-13T17:57:38+00:00","user_guid":"%b"}'
)
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/vnd.mx.atrium.v1+json\r\nContent-Length: %d\r\n\r\n"


class Bank:
    """The state of all connections: the knobs, the figures, and the answers that wait for their moment."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._due: deque[tuple[float, asyncio.Transport, bytes]] = deque()
        self._armed = False
        self._states = (b"%032x" % number for number in count(secrets.randbits(96) << 24))
        self.set({})

    def set(self, knobs: dict[str, str]) -> None:
        """``delay`` and ``slow_delay`` in seconds. ``slow_every``: with 100, every hundredth answer is slow (0: none)."""
        self.delay = float(knobs.get("delay", "0.05"))
        self.slow_every = int(knobs.get("slow_every", "0"))
        self.slow_delay = float(knobs.get("slow_delay", "10"))
        #: How many users the lists have.
        self.users = int(knobs.get("users", "0"))
        self.begun = self.answered = 0
        self.first_at: float | None = None
        self.last_at: float | None = None
        self._course: list[tuple[float, int, int]] = []

    def stats(self) -> dict[str, object]:
        """The figures. Moments are of the machine's monotonic clock, which all processes share."""
        return {
            "begun": self.begun,
            "answered": self.answered,
            "first_at": self.first_at,
            "last_at": self.last_at,
            "cpu": time.process_time(),
            "course": self._course,
        }

    async def note_course(self) -> None:
        """Record at intervals how many requests have begun and how many were answered."""
        while True:
            if self.begun and (not self._course or self._course[-1][1:] != (self.begun, self.answered)):
                self._course.append((time.monotonic(), self.begun, self.answered))
            await asyncio.sleep(NOTE_EVERY)

    def ask(self, transport: asyncio.Transport, user: bytes, member: bytes) -> None:
        """Answer a request for a window after the delay."""
        self.answer(transport, _BODY % (member, next(self._states), user))

    def list_users(self, transport: asyncio.Transport, page: int, size: int) -> None:
        """Answer with a page of users after the delay."""
        numbers = range((page - 1) * size, min(page * size, self.users))
        rows = [{"guid": user_guid(n), "identifier": f"u{n}", "is_disabled": False, "metadata": None} for n in numbers]
        said = {
            "current_page": page,
            "per_page": size,
            "total_entries": self.users,
            "total_pages": -(-self.users // size),
        }
        self.answer(transport, json.dumps({"users": rows, "pagination": said}).encode())

    def list_members(self, transport: asyncio.Transport, user: bytes) -> None:
        """Answer with the members of a user after the delay. Every other user has two, the others have one."""
        guids = [b"MBR-" + user[4:], b"MBR-x" + user[5:]][: 1 + (user[-1] % 2)]
        rows = b",".join([_ROW % (guid, user) for guid in guids])
        said = b'{"current_page":1,"per_page":100,"total_entries":%d,"total_pages":1}' % len(guids)
        self.answer(transport, b'{"members":[%b],"pagination":%b}' % (rows, said))

    def answer(self, transport: asyncio.Transport, body: bytes) -> None:
        """Send an answer with this body after the delay."""
        now = time.monotonic()
        if self.first_at is None:
            self.first_at = now
        self.begun += 1
        answer = _HEAD % len(body) + body
        if self.slow_every and self.begun % self.slow_every == 0:
            self._loop.call_later(self.slow_delay, self._answer, transport, answer)
        elif not self.delay:
            self._answer(transport, answer)
        else:
            self._due.append((now + self.delay, transport, answer))
            if not self._armed:
                self._armed = True
                self._loop.call_later(self.delay, self._answer_due)

    def _answer_due(self) -> None:
        """Send all answers that are due. One timer is enough, since all have the same delay."""
        now = time.monotonic()
        due = self._due
        while due and due[0][0] <= now:
            _, transport, answer = due.popleft()
            self._answer(transport, answer)
        self._armed = bool(due)
        if due:
            self._loop.call_later(max(due[0][0] - now, 0.0005), self._answer_due)

    def _answer(self, transport: asyncio.Transport, answer: bytes) -> None:
        self.answered += 1
        self.last_at = time.monotonic()
        if not transport.is_closing():  # the client may have ended
            transport.write(answer)


class Connection(asyncio.Protocol):
    """One keep-alive connection. A client sends its next request after it got the answer."""

    def __init__(self, bank: Bank) -> None:
        self._bank = bank
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        data = self._rest + data
        while True:
            request, end, rest = data.partition(b"\r\n\r\n")
            if not end:
                self._rest = data
                return
            self._request(request)
            data = rest

    def _request(self, request: bytes) -> None:
        asked = _ASKED.match(request)
        if asked is not None:
            self._bank.ask(self._transport, asked[1], asked[2])
            return
        listed = _LISTED_FOR.match(request)
        if listed is not None:
            self._bank.list_members(self._transport, listed[1])
            return
        page = _LISTED.match(request)
        if page is not None:
            self._bank.list_users(self._transport, int(page[1]), int(page[2]))
            return
        path, _, query = request.split(b" ", 2)[1].decode().partition("?")
        if path == "/bench/set":
            self._bank.set(dict(parse_qsl(query)))
        body = json.dumps(self._bank.stats() if path == "/bench/stats" else {}).encode()
        self._transport.write(_HEAD % len(body) + body)


async def serve() -> None:
    """Listen on a free port, print it, and serve for ever."""
    loop = asyncio.get_running_loop()
    bank = Bank()
    listening = socket.create_server(("127.0.0.1", 0), backlog=4096)
    server = await loop.create_server(lambda: Connection(bank), sock=listening)
    print(listening.getsockname()[1], flush=True)
    async with server:
        await bank.note_course()


if __name__ == "__main__":
    import uvloop

    uvloop.run(serve())

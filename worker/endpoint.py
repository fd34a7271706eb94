"""The application's endpoint for events: posts one event, signed, and says what the endpoint made of it.

It follows no redirect and keeps no cookie. What it knows of an answer is the status and ``Retry-After``; no body is kept.
"""

import asyncio
from datetime import datetime
from typing import NamedTuple

from worker.channels import TryLater
from worker.channels.push.http import HttpResponse, Poster, asked_to_wait
from worker.settings import Settings
from worker.signing import Signer

#: Seconds for one event and its answer.
PATIENCE = 15.0
#: Events in flight in one process.
CONNECTIONS = 20
_OK = range(200, 300)


class Answer(NamedTuple):
    """What the endpoint made of an event."""

    accepted: bool
    #: ``http_200``, or a short word for what went wrong: ``timeout``, ``connect_failed``.
    code: str
    #: Seconds that it asks us to wait.
    retry_after: float | None = None
    #: No request reached it.
    unreachable: bool = False


class Endpoint:
    """``EVENTS_URL``. Connects at the first event, on the event loop of that time."""

    def __init__(self, settings: Settings) -> None:
        assert settings.events_url is not None, "events are on"  # noqa: S101
        self._url = settings.events_url.get_secret_value()
        self._signer = Signer(settings.events_secrets)
        self._poster = Poster(patience=min(PATIENCE, settings.lease_seconds / 2))
        self._slots = asyncio.Semaphore(CONNECTIONS)

    async def post(self, event_id: str, body: str, now: datetime) -> Answer:
        """Post one event. ``now`` is signed along: receivers refuse what is more than five minutes off."""
        headers = {"Content-Type": "application/json", **self._signer.headers(event_id, body, now)}
        async with self._slots:
            reply = await self._poster.post(self._url, headers=headers, body=body.encode())
        if isinstance(reply, HttpResponse):
            return Answer(reply.status in _OK, f"http_{reply.status}", asked_to_wait(reply.headers))
        return Answer(accepted=False, code=reply.code, unreachable=isinstance(reply, TryLater))

    async def close(self) -> None:
        """Close every connection."""
        await self._poster.close()

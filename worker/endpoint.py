"""The application's endpoint for events: posts one signed event, and returns the endpoint's answer.

It follows no redirect and keeps no cookie. Of an answer only the status and ``Retry-After`` are used.
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
    """The endpoint's answer to one event."""

    accepted: bool
    #: ``http_200``, or a short word for the error: ``timeout``, ``connect_failed``.
    code: str
    #: The seconds that the endpoint asks us to wait.
    retry_after: float | None = None
    #: No request reached the endpoint.
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
        """Post one event. ``now`` is part of what is signed: receivers refuse an event if it differs from their clock by over five minutes."""
        headers = {"Content-Type": "application/json", **self._signer.headers(event_id, body, now)}
        async with self._slots:
            reply = await self._poster.post(self._url, headers=headers, body=body.encode())
        if isinstance(reply, HttpResponse):
            return Answer(reply.status in _OK, f"http_{reply.status}", asked_to_wait(reply.headers))
        return Answer(accepted=False, code=reply.code, unreachable=isinstance(reply, TryLater))

    async def close(self) -> None:
        """Close every connection."""
        await self._poster.close()

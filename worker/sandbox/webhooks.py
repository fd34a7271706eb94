"""MX's webhooks: the sandbox sends them when a member's state changes.

- CONNECTION_STATUS for the statuses for which MX sends it, so never for CONNECTED;
- MEMBER for every new status, and for a deleted member;
- AGGREGATION once the data of a customer who is back are there.

As at MX they have no event id and no time of the change. A webhook that is not answered with 2xx is sent again, up to 12 times (here
within minutes).
"""

import asyncio
import base64
import secrets
import time
from collections import Counter
from datetime import UTC, datetime
from typing import Any, Protocol
from urllib.parse import urlsplit

import aiohttp

from worker.sandbox.population import SimulatedMember

#: The statuses for which MX sends CONNECTION_STATUS, and their ids.
TOLD = {
    "PREVENTED": 1, "DENIED": 2, "CHALLENGED": 3, "REJECTED": 4, "LOCKED": 5, "IMPEDED": 7, "EXPIRED": 19, "IMPAIRED": 20,
}  # fmt: skip
_TRIES, _FIRST_WAIT, _LONGEST_WAIT = 13, 0.5, 60.0
_PATIENCE = aiohttp.ClientTimeout(total=10)


class Member(Protocol):
    """The data of a member that webhooks contain."""

    guid: str
    connection_status: str
    record: SimulatedMember


def is_target(url: str) -> bool:
    """Whether webhooks can be sent to this URL."""
    parts = urlsplit(url)
    return parts.scheme in {"http", "https"} and bool(parts.hostname)


class Webhooks:
    """Sends webhooks, once a target is set; bound to the event loop of the first one."""

    def __init__(self, url: str | None = None, auth: str | None = None) -> None:
        """``auth`` as in ``MX_WEBHOOK_AUTH``: ``user:password``, or ``bearer TOKEN``."""
        self.url = url
        self.auth = auth
        #: How many answers had each status; 0: no answer came.
        self.answers: Counter[int] = Counter()
        self._sending: set[asyncio.Task[None]] = set()
        self._session: aiohttp.ClientSession | None = None

    def status_changed(self, member: Member) -> None:
        """Send the webhooks of a new status."""
        status = member.connection_status
        if status in TOLD:
            self._send({
                "action": "CHANGED",
                "connection_status": status,
                "connection_status_id": TOLD[status],
                "connection_status_message": "The customer has to act.",
                "member_guid": member.guid,
                "type": "CONNECTION_STATUS",
                "user_guid": member.record.user_guid,
            })  # fmt: skip
        self._send(self._member(member, "updated"))

    def deleted(self, member: Member) -> None:
        """Send the webhook of a deleted member."""
        self._send(self._member(member, "deleted"))

    def aggregated(self, member: Member, *, after: float) -> None:
        """Send the webhook of an aggregation that ends after this many seconds."""
        now = time.time() + after
        self._send(
            {
                "action": "member_data_updated",
                "completed_at": int(now),
                "completed_on": datetime.fromtimestamp(now, UTC).date().isoformat(),
                "is_background": False,
                "job_guid": f"JOB-{secrets.token_hex(16)}",
                "member_guid": member.guid,
                "transactions_created_count": 12,
                "transactions_updated_count": 0,
                "type": "AGGREGATION",
                "user_guid": member.record.user_guid,
                "user_id": member.record.user_id,
            },
            after=after,
        )

    async def close(self) -> None:
        """Stop sending."""
        for task in self._sending:
            task.cancel()
        await asyncio.gather(*self._sending, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    def _member(self, member: Member, action: str) -> dict[str, Any]:
        return {
            "action": action,
            "aggregated_at": None,
            "connection_status": member.connection_status,
            "connection_status_id": TOLD.get(member.connection_status),
            "connection_status_message": None,
            "guid": member.guid,
            "id": member.record.member_id,
            "institution_code": member.record.institution_code,
            "type": "MEMBER",
            "user_guid": member.record.user_guid,
        }

    def _send(self, said: dict[str, Any], *, after: float = 0.0) -> None:
        if self.url is not None:
            task = asyncio.get_running_loop().create_task(self._keep_sending(self.url, said, after))
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)

    async def _keep_sending(self, url: str, said: dict[str, Any], after: float) -> None:
        await asyncio.sleep(after)
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=_PATIENCE)
        wait = _FIRST_WAIT
        for _ in range(_TRIES):
            status = 0
            try:
                async with self._session.post(url, json=said, headers=self._headers()) as answer:
                    status = answer.status
            except (aiohttp.ClientError, TimeoutError):
                pass
            self.answers[status] += 1
            if 200 <= status < 300:  # noqa: PLR2004 - HTTP's own figures
                return
            await asyncio.sleep(wait)
            wait = min(wait * 2, _LONGEST_WAIT)

    def _headers(self) -> dict[str, str]:
        if self.auth is None:
            return {}
        scheme, space, token = self.auth.partition(" ")
        if space and scheme.lower() == "bearer":
            return {"Authorization": f"Bearer {token}"}
        return {"Authorization": f"Basic {base64.b64encode(self.auth.encode()).decode()}"}

"""``/healthz`` and ``/readyz``, for probes; and the answer by which `doctor` recognises this worker."""

import asyncio
import hashlib
import hmac
import re
import time
from collections.abc import Sequence

from aiohttp import web

from worker.errors import WorkerError
from worker.settings import Settings
from worker.store.sql import schema
from worker.web.limits import derived_key

#: `doctor` sends a random text in the first header, and gets its keyed hash in the second.
CHALLENGE, FINGERPRINT = "X-Reconnect-Challenge", "X-Reconnect-Fingerprint"
#: The "try again" page of ``ops/proxy`` has this header with this value: the proxy did not reach the worker.
BY_PROXY, UNREACHED = "X-Reconnect-Proxy", "unreached"
_CHALLENGE = re.compile(r"[0-9a-f]{16,64}")

#: Seconds for which an answer about the schema is reused, because anyone may ask; and seconds that the database may take.
_VALID_FOR, _PATIENCE = 2.0, 6.0


def fingerprints(settings: Settings, challenge: str) -> Sequence[str]:
    """The valid answers to a challenge, one for each key of ``URI_KEYS``. This process answers with the first."""
    return [
        hmac.new(derived_key(settings, "doctor", number=number), challenge.encode(), hashlib.sha256).hexdigest()
        for number in range(len(settings.uri_keys))
    ]


class HealthRoutes:
    """The two handlers."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._asking: asyncio.Task[str | None] | None = None
        self._fault: str | None = None
        self._answered_at = float("-inf")

    async def alive(self, request: web.Request) -> web.Response:  # noqa: ARG002
        """200 while the process runs."""
        return web.json_response({"status": "alive"})

    async def ready(self, request: web.Request) -> web.Response:
        """200 if the database answers and has this version's schema; else 503, and why."""
        if time.monotonic() - self._answered_at > _VALID_FOR:
            # One question to the database at a time, however many requests there are.
            self._asking = self._asking or asyncio.create_task(self._ask())
            await asyncio.shield(self._asking)
        challenge = request.headers.get(CHALLENGE, "")
        headers = {FINGERPRINT: fingerprints(self._settings, challenge)[0]} if _CHALLENGE.fullmatch(challenge) else {}
        if self._fault is not None:
            return web.json_response({"status": "not ready", "why": self._fault}, status=503, headers=headers)
        return web.json_response({"status": "ready"}, headers=headers)

    async def close(self) -> None:
        """Wait for a question to the database that is under way."""
        if self._asking is not None:
            await asyncio.wait([self._asking], timeout=_PATIENCE)

    async def _ask(self) -> str | None:
        try:
            async with asyncio.timeout(_PATIENCE):
                current, newest = await asyncio.to_thread(schema.revisions, self._settings)
            self._fault = None if current == newest else "schema"
        except (WorkerError, TimeoutError):
            self._fault = "database"
        finally:
            self._answered_at, self._asking = time.monotonic(), None
        return self._fault

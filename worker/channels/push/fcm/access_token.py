"""OAuth 2.0 access tokens of a Google service account (RFC 7523), one at a time and shared by every message.

google-auth signs and asks, in a thread, since it blocks. Of its own repeats none is used: an answer other than 200 ends the
attempt, and repeating is decided above.
"""

import asyncio
import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC
from pathlib import Path
from typing import Any

from worker.channels import ChannelDown, Doubt, Refusal, TryLater
from worker.channels.push.http import retry_after, service_url
from worker.errors import SettingsError, WorkerError

try:
    import requests
    from google.auth.exceptions import TransportError
    from google.auth.transport.requests import Request
    from google.oauth2.service_account import Credentials
except ImportError:
    raise WorkerError("push by FCM needs: pip install 'reconnection-worker[push]'") from None

_SCOPE = "https://www.googleapis.com/auth/firebase.messaging"

#: What a key file must say; ``token_uri`` too, but that may be set beside it.
_REQUIRED = ("project_id", "client_email", "private_key")

#: A token is used for so much of its life: 55 minutes of the usual hour.
_USED_FOR = 55 / 60
#: Seconds to connect to the token endpoint, and without a byte from it.
_PATIENCE = (5.0, 10.0)

_PASSING = frozenset({408, 429})


class _NoTokenError(Exception):
    """The token endpoint answered something other than 200."""

    def __init__(self, outcome: TryLater | ChannelDown) -> None:
        super().__init__(outcome.code)
        self.outcome = outcome


@dataclass(frozen=True, slots=True)
class AccessToken:
    """A bearer token, and until when it is used, by the clock of its maker."""

    value: str = field(repr=False)
    fresh_until: float


class ServiceAccount:
    """A service account's key and the token that it last got."""

    def __init__(self, key_file: Path, *, token_uri: str | None, clock: Callable[[], float] = time.time) -> None:
        """Raises :class:`~worker.errors.SettingsError` where the file is not a service account's key."""
        expected = "settings: FCM_SERVICE_ACCOUNT_FILE"
        try:
            info = json.loads(key_file.read_bytes())
        except OSError as error:
            raise SettingsError(f"{expected}: cannot be read ({error.strerror})") from None
        except ValueError:
            info = None
        if not isinstance(info, dict) or not all(isinstance(info.get(name), str) for name in _REQUIRED):
            raise SettingsError(f"{expected}: expected the JSON key of a service account, as Google's console gives it")
        token_uri = service_url("FCM_TOKEN_URI", token_uri or str(info.get("token_uri", "")))
        try:
            self._credentials = Credentials.from_service_account_info(  # type: ignore[no-untyped-call]
                {**info, "token_uri": token_uri}, scopes=[_SCOPE]
            )
        except Exception:  # noqa: BLE001 - errors of many classes, some of which quote the key
            raise SettingsError(f"{expected}: its private key or client_email cannot be used") from None
        self.project_id: str = info["project_id"]
        self._clock = clock
        self._token: AccessToken | None = None
        self._refresh: asyncio.Task[AccessToken | TryLater | ChannelDown] | None = None

    async def token(self) -> AccessToken | TryLater | ChannelDown:
        """A token that is good for minutes at least; callers that come while one is being fetched wait for the same one."""
        if self._token is not None and self._clock() < self._token.fresh_until:
            return self._token
        if self._refresh is None or self._refresh.done():
            self._refresh = asyncio.create_task(self._fetch())
        return await asyncio.shield(self._refresh)  # a caller that is cancelled takes nobody else's token away

    def forget(self, token: AccessToken) -> None:
        """The token was refused: the next caller gets another."""
        if self._token is token:
            self._token = None

    async def close(self) -> None:
        """Wait for a token that is under way: its thread cannot be stopped."""
        if self._refresh is not None:
            with suppress(asyncio.CancelledError):
                await asyncio.wait([self._refresh])

    async def _fetch(self) -> AccessToken | TryLater | ChannelDown:
        asked_at = self._clock()
        try:
            await asyncio.to_thread(_ask, self._credentials)
        except _NoTokenError as refused:
            return refused.outcome
        except (TransportError, OSError):
            return _deferred("token_unreachable")
        except Exception:  # noqa: BLE001 - 200 with anything in it; the text may hold the answer
            return _deferred("token_garbled")
        value, expiry = self._credentials.token, self._credentials.expiry
        if not isinstance(value, str) or not value or expiry is None:
            return _deferred("token_garbled")
        lifetime = expiry.replace(tzinfo=UTC).timestamp() - time.time()
        self._token = AccessToken(value, asked_at + lifetime * _USED_FOR)
        return self._token


def _ask(credentials: Credentials) -> None:
    with requests.Session() as session:
        session.trust_env = False  # a .netrc would replace what we say
        send = Request(session)

        def ask(**kwargs: Any) -> Any:
            response = send(**kwargs, timeout=_PATIENCE, allow_redirects=False)
            if response.status != 200:  # noqa: PLR2004
                raise _NoTokenError(_classify(response.status, response.headers))
            return response

        credentials.refresh(ask)  # type: ignore[no-untyped-call]


def _deferred(code: str, *, after: float | None = None) -> TryLater:
    """Without a token no message can go."""
    return TryLater(code=code, after=after, whole_channel=True, refusal=Refusal(code, Doubt.UNREACHABLE))


def _classify(status: int, headers: Any) -> TryLater | ChannelDown:
    if status in _PASSING or status >= 500:  # noqa: PLR2004
        return _deferred(f"token_{status}", after=retry_after(headers))
    return ChannelDown(code=f"token_{status}")  # the key was deleted, or this machine's clock is wrong

"""OAuth 2.0 access tokens of a Google service account (RFC 7523), one at a time and shared by every message.

google-auth signs and requests a token, in a thread because it blocks. Its own retries are disabled: any answer other than 200 ends
the attempt, and the deliver stage decides about the retry.
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
from worker.channels.push.http import asked_to_wait, service_url
from worker.errors import SettingsError, WorkerError

try:
    import requests
    from google.auth.exceptions import TransportError
    from google.auth.transport.requests import Request
    from google.oauth2.service_account import Credentials
except ImportError:
    raise WorkerError("push by FCM needs: pip install 'reconnection-worker[push]'") from None

_SCOPE = "https://www.googleapis.com/auth/firebase.messaging"

#: What a key file must contain. ``token_uri`` is required too, but FCM_TOKEN_URI may replace it.
_REQUIRED = ("project_id", "client_email", "private_key")

#: The part of its lifetime for which a token is used: 55 minutes of the usual hour.
_USED_FOR = 55 / 60
#: Seconds to connect to the token endpoint, and to wait for each part of its answer.
_PATIENCE = (5.0, 10.0)

_TRANSIENT = frozenset({408, 429})


class _NoTokenError(Exception):
    """The token endpoint answered something other than 200."""

    def __init__(self, outcome: TryLater | ChannelDown) -> None:
        super().__init__(outcome.code)
        self.outcome = outcome


@dataclass(frozen=True, slots=True)
class AccessToken:
    """A bearer token, and until when it is used, by the clock of its :class:`ServiceAccount`."""

    value: str = field(repr=False)
    use_until: float


class ServiceAccount:
    """A service account's key and its newest access token."""

    def __init__(self, key_file: Path, *, token_uri: str | None, clock: Callable[[], float] = time.time) -> None:
        """Raises :class:`~worker.errors.SettingsError` if the file is not a service account's key."""
        where = "settings: FCM_SERVICE_ACCOUNT_FILE"
        try:
            info = json.loads(key_file.read_bytes())
        except OSError as error:
            raise SettingsError(f"{where}: cannot be read ({error.strerror})") from None
        except ValueError:
            info = None
        if not isinstance(info, dict) or not all(isinstance(info.get(name), str) for name in _REQUIRED):
            raise SettingsError(f"{where}: expected the JSON key of a service account, as Google's console gives it")
        token_uri = service_url("FCM_TOKEN_URI", token_uri or str(info.get("token_uri", "")))
        try:
            self._credentials = Credentials.from_service_account_info(  # type: ignore[no-untyped-call]
                {**info, "token_uri": token_uri}, scopes=[_SCOPE]
            )
        except Exception:  # noqa: BLE001 - it raises many classes of error, and some quote the key
            raise SettingsError(f"{where}: its private_key or client_email is invalid") from None
        self.project_id: str = info["project_id"]
        self._clock = clock
        self._token: AccessToken | None = None
        self._refresh: asyncio.Task[AccessToken | TryLater | ChannelDown] | None = None

    async def token(self) -> AccessToken | TryLater | ChannelDown:
        """A token that is valid for some minutes. Callers at the same time wait for the same request."""
        if self._token is not None and self._clock() < self._token.use_until:
            return self._token
        if self._refresh is None or self._refresh.done():
            self._refresh = asyncio.create_task(self._fetch())
        return await asyncio.shield(self._refresh)  # if one caller is cancelled, the others still get the token

    def forget(self, token: AccessToken) -> None:
        """Drop a token that FCM refused; the next caller gets a new one."""
        if self._token is token:
            self._token = None

    async def close(self) -> None:
        """Wait for a request that is running, because its thread cannot be stopped."""
        if self._refresh is not None:
            with suppress(asyncio.CancelledError):
                await asyncio.wait([self._refresh])

    async def _fetch(self) -> AccessToken | TryLater | ChannelDown:
        requested_at = self._clock()
        try:
            await asyncio.to_thread(_request_token, self._credentials)
        except _NoTokenError as refused:
            return refused.outcome
        except (TransportError, OSError):
            return _no_token("token_unreachable")
        except Exception:  # noqa: BLE001 - a 200 with an invalid body; the error's text may quote the body
            return _no_token("token_garbled")
        value, expiry = self._credentials.token, self._credentials.expiry
        if not isinstance(value, str) or not value or expiry is None:
            return _no_token("token_garbled")
        lifetime = expiry.replace(tzinfo=UTC).timestamp() - time.time()
        self._token = AccessToken(value, requested_at + lifetime * _USED_FOR)
        return self._token


def _request_token(credentials: Credentials) -> None:
    with requests.Session() as session:
        session.trust_env = False  # a .netrc would replace the Authorization header
        send = Request(session)

        def send_once(**kwargs: Any) -> Any:
            response = send(**kwargs, timeout=_PATIENCE, allow_redirects=False)
            if response.status != 200:  # noqa: PLR2004
                raise _NoTokenError(_classify(response.status, response.headers))
            return response

        credentials.refresh(send_once)  # type: ignore[no-untyped-call]


def _no_token(code: str, *, after: float | None = None) -> TryLater:
    """Without a token no message can be sent, so the whole channel waits."""
    return TryLater(code=code, after=after, whole_channel=True, refusal=Refusal(code, Doubt.UNREACHABLE))


def _classify(status: int, headers: Any) -> TryLater | ChannelDown:
    if status in _TRANSIENT or status >= 500:  # noqa: PLR2004
        return _no_token(f"token_{status}", after=asked_to_wait(headers))
    return ChannelDown(code=f"token_{status}")  # usual causes: the key was deleted, or this machine's clock is wrong

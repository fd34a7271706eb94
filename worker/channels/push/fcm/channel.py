"""Push through FCM as a channel: gets a token, posts one message, classifies the answer."""

import json
import ssl
import time
from collections.abc import Callable

from worker.channels import BadAddress, Dispatching, Doubt, Failed, Message, Outcome, Refusal, Sent, TryLater
from worker.channels.last_accepted import LastAccepted
from worker.channels.one_message import for_one_message
from worker.channels.push.fcm.access_token import AccessToken, ServiceAccount
from worker.channels.push.fcm.classifying import MAY_BE_ONE_TOKEN, classify
from worker.channels.push.fcm.config import FcmConfig
from worker.channels.push.fcm.message import build
from worker.channels.push.http import HttpResponse, Poster, service_url
from worker.channels.push.pause import Pause

#: A registration token that no device has. FCM checks our credentials before it refuses the token.
_FAKE_TOKEN = "reconnect-doctor"  # noqa: S105 - not a secret
#: Codes with which FCM may refuse the fake token, besides a bad address.
_REFUSED_FAKE_TOKEN = frozenset({"invalid_argument", "http_400"})
_UNAUTHENTICATED = 401


class FcmChannel:
    """Implements :class:`worker.channels.Channel`. Connects at the first send, and belongs to the event loop of that send."""

    kind = "fcm"

    def __init__(
        self,
        config: FcmConfig,
        *,
        ssl_context: ssl.SSLContext | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Raises :class:`~worker.errors.SettingsError` if the key file or a URL is missing or invalid."""
        self._config = config
        self._account = ServiceAccount(config.service_account_file, token_uri=config.token_uri, clock=clock)
        base_url = service_url("FCM_BASE_URL", config.base_url)
        self._url = f"{base_url}/v1/projects/{self._account.project_id}/messages:send"
        self._poster = Poster(patience=config.patience, ssl_context=ssl_context)
        self._pause = Pause()
        self._last_accepted = LastAccepted()

    async def send(self, message: Message, dispatching: Dispatching) -> Outcome:
        """See :meth:`worker.channels.Channel.send`."""
        body = build(message, self._config)
        if isinstance(body, BadAddress | Failed):
            return body
        if paused := self._pause.paused():
            return paused
        token = await self._account.token()
        if not isinstance(token, AccessToken):
            return self._pause.note(token)
        await dispatching()
        outcome = self._pause.note(for_one_message(message, await self._post(body, token)))
        return self._last_accepted.attribute(self.kind, outcome, may_be_address=outcome.code in MAY_BE_ONE_TOKEN)

    async def check(self) -> Outcome:
        """Whether messages could be sent: gets an access token and does a dry run. ``Sent`` with the code ``ready`` if so."""
        token = await self._account.token()
        if not isinstance(token, AccessToken):
            return token
        dry_run = {"validate_only": True, "message": {"token": _FAKE_TOKEN, "data": {"message_key": _FAKE_TOKEN}}}
        outcome = await self._post(json.dumps(dry_run).encode(), token)
        token_refused = isinstance(outcome, BadAddress) or outcome.code in _REFUSED_FAKE_TOKEN
        return Sent(code="ready") if isinstance(outcome, Sent) or token_refused else outcome

    async def close(self) -> None:
        """Close all connections."""
        await self._account.close()
        await self._poster.close()

    async def _post(self, body: bytes, token: AccessToken) -> Outcome:
        headers = {"Authorization": f"Bearer {token.value}", "Content-Type": "application/json; charset=utf-8"}
        reply = await self._poster.post(self._url, headers=headers, body=body)
        if not isinstance(reply, HttpResponse):
            return _unreachable(reply)
        if reply.status == _UNAUTHENTICATED:
            self._account.forget(token)
        return classify(reply)


def _unreachable(cause: Outcome) -> Outcome:
    """All messages go to the same host. If it cannot be reached, the whole channel must wait."""
    if not isinstance(cause, TryLater):
        return cause
    return TryLater(code=cause.code, whole_channel=True, refusal=Refusal(cause.code, Doubt.UNREACHABLE))

"""Push through FCM as a channel: gets a token, posts one message, classifies the answer."""

import json
import ssl
import time
from collections.abc import Callable

from worker.channels import BadAddress, Dispatching, Doubt, Failed, Message, Outcome, Refusal, Sent, TryLater
from worker.channels.push.fcm.access_token import AccessToken, ServiceAccount
from worker.channels.push.fcm.classifying import PERHAPS_THE_TOKEN, classify
from worker.channels.push.fcm.config import FcmConfig
from worker.channels.push.fcm.message import build
from worker.channels.push.http import HttpResponse, Poster, service_url
from worker.channels.push.pause import Pause
from worker.channels.standing import Standing

#: A token that no device has: FCM refuses it only after it accepted who asks.
_NOBODY = "reconnect-doctor"
#: How it says so where it does not name the field.
_ABOUT_THE_REQUEST = frozenset({"invalid_argument", "http_400"})
_UNAUTHENTICATED = 401


class FcmChannel:
    """Implements :class:`worker.channels.Channel`. Connects at the first send; belongs to the loop that this happens on."""

    kind = "fcm"

    def __init__(
        self,
        config: FcmConfig,
        *,
        ssl_context: ssl.SSLContext | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Raises :class:`~worker.errors.SettingsError` where the configuration allows no push."""
        self._config = config
        self._account = ServiceAccount(config.service_account_file, token_uri=config.token_uri, clock=clock)
        base_url = service_url("FCM_BASE_URL", config.base_url)
        self._url = f"{base_url}/v1/projects/{self._account.project_id}/messages:send"
        self._poster = Poster(patience=config.patience, ssl_context=ssl_context)
        self._pause = Pause()
        self._standing = Standing()

    async def send(self, message: Message, dispatching: Dispatching) -> Outcome:
        """See :meth:`worker.channels.Channel.send`."""
        body = build(message, self._config)
        if isinstance(body, BadAddress | Failed):
            return body
        if held := self._pause.holds():
            return held
        token = await self._account.token()
        if not isinstance(token, AccessToken):
            return self._pause.note(token)
        await dispatching()
        outcome = self._pause.note(await self._post(body, token))
        return self._standing.assess(self.kind, outcome, may_be_the_device=outcome.code in PERHAPS_THE_TOKEN)

    async def check(self) -> Outcome:
        """Whether messages could be sent, without sending any: a token, and a dry run to nobody; ``Sent`` means that all is well."""
        token = await self._account.token()
        if not isinstance(token, AccessToken):
            return token
        dry_run = {"validate_only": True, "message": {"token": _NOBODY, "data": {"message_key": _NOBODY}}}
        outcome = await self._post(json.dumps(dry_run).encode(), token)
        about_nobody = isinstance(outcome, BadAddress) or outcome.code in _ABOUT_THE_REQUEST
        return Sent(code="ready") if isinstance(outcome, Sent) or about_nobody else outcome

    async def close(self) -> None:
        """Let go of connections."""
        await self._account.close()
        await self._poster.close()

    async def _post(self, body: bytes, token: AccessToken) -> Outcome:
        headers = {"Authorization": f"Bearer {token.value}", "Content-Type": "application/json; charset=utf-8"}
        reply = await self._poster.post(self._url, headers=headers, body=body)
        if not isinstance(reply, HttpResponse):
            return _unreached(reply)
        if reply.status == _UNAUTHENTICATED:
            self._account.forget(token)
        return classify(reply)


def _unreached(cause: Outcome) -> Outcome:
    """There is one FCM: where it cannot be reached, no message can go."""
    if not isinstance(cause, TryLater):
        return cause
    return TryLater(code=cause.code, whole_channel=True, refusal=Refusal(cause.code, Doubt.UNREACHABLE))

"""Push through APNs as a channel: signs in, posts one message, classifies the answer."""

import ssl
import time
from collections.abc import Callable

from worker.channels import BadAddress, Dispatching, Failed, Message, Outcome, Sent
from worker.channels.one_message import for_one_message
from worker.channels.push.apns.classifying import EXPIRED_PROVIDER_TOKEN, classify, reason_of
from worker.channels.push.apns.config import PRODUCTION, SANDBOX, ApnsConfig
from worker.channels.push.apns.doubtful import DoubtfulTokens
from worker.channels.push.apns.exchange import Exchange
from worker.channels.push.apns.message import Push, build, push_to
from worker.channels.push.apns.provider_token import ProviderToken, load_key
from worker.channels.push.http import HttpResponse, service_url
from worker.channels.push.pause import Pause
from worker.errors import SettingsError

#: A device token that no device has. APNs checks our credentials before it refuses the token.
_FAKE_TOKEN = "0" * 64


class ApnsChannel:
    """Implements :class:`worker.channels.Channel`. Connects at the first send, and belongs to the event loop of that send."""

    kind = "apns"

    def __init__(
        self,
        config: ApnsConfig,
        *,
        ssl_context: ssl.SSLContext | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Raises :class:`~worker.errors.SettingsError` if a key, id or URL is missing or invalid."""
        for setting, value in (("KEY_ID", config.key_id), ("TEAM_ID", config.team_id), ("TOPIC", config.topic)):
            if not value or not value.isascii() or not value.isprintable():
                raise SettingsError(
                    f"settings: APNS_{setting} is missing, or has characters that are not printable ASCII"
                )
        self._config = config
        self._token = ProviderToken(
            load_key(config.key_file), key_id=config.key_id, team_id=config.team_id, clock=clock
        )
        base_url = service_url("APNS_BASE_URL", config.base_url or (SANDBOX if config.sandbox else PRODUCTION))
        self._exchange = Exchange(base_url, patience=config.patience, ssl_context=ssl_context)
        self._pause = Pause()
        self._doubtful = DoubtfulTokens()

    async def send(self, message: Message, dispatching: Dispatching) -> Outcome:
        """See :meth:`worker.channels.Channel.send`."""
        push = build(message, self._config)
        if isinstance(push, BadAddress | Failed):
            return push
        if paused := self._pause.paused():
            return paused
        await dispatching()
        return self._doubtful.attribute(self._pause.note(for_one_message(message, await self._deliver(push))))

    async def check(self) -> Outcome:
        """Whether messages could be sent: posts one to a device token that no device has. ``Sent`` with the code ``ready`` if so."""
        push = push_to(_FAKE_TOKEN, b'{"aps":{"alert":"check"}}', key="check", collapse_id="check", config=self._config)
        outcome = await self._deliver(push)
        return Sent(code="ready") if isinstance(outcome, Sent | BadAddress) else outcome

    async def close(self) -> None:
        """Close all connections."""
        await self._exchange.close()

    async def _deliver(self, push: Push) -> Outcome:
        token = self._token.current()
        reply = await self._post(push, token)
        if isinstance(reply, HttpResponse) and reason_of(reply) == EXPIRED_PROVIDER_TOKEN:
            fresh = self._token.renewed(token)
            if fresh is not None:
                reply = await self._post(push, fresh)
        return classify(reply) if isinstance(reply, HttpResponse) else reply

    async def _post(self, push: Push, token: str) -> HttpResponse | Outcome:
        headers = {**push.headers, "authorization": f"bearer {token}", "content-type": "application/json"}
        return await self._exchange.post(push.path, headers=headers, body=push.payload)

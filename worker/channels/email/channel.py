"""Email as a channel: builds the mail, sends it through the pool, classifies the answer."""

import ssl

from worker.channels import BadAddress, ChannelDown, Dispatching, Failed, Message, Outcome, TryLater
from worker.channels.email.connection import Unconnected
from worker.channels.email.dialogue import DATA_PATIENCE, Stale, hand_over, probe
from worker.channels.email.message import Composer, Mail
from worker.channels.email.pool import FIRST_PAUSE, IDLE_SECONDS, MAILS_PER_CONNECTION, Pool
from worker.channels.last_accepted import LastAccepted
from worker.channels.one_message import for_one_message
from worker.errors import SettingsError
from worker.settings import Settings

#: Seconds to wait for the reply to a command. A mail's content has its own limit, ``DATA_PATIENCE``.
COMMAND_PATIENCE = 30.0

#: Codes of refusals before RCPT. No recipient was named yet, so none can be the cause.
_BEFORE_RCPT = ("auth_", "mail_")
#: Some servers announce SMTPUTF8 but do not support it. They refuse MAIL, or answer RCPT with 5.1.3 (bad syntax).
_BAD_SYNTAX = " 5.1.3 "


def _may_be_missing_utf8(outcome: BadAddress | ChannelDown) -> bool:
    if isinstance(outcome, ChannelDown):
        return outcome.code.startswith("mail_")
    return outcome.refusal is not None and _BAD_SYNTAX in outcome.refusal.what


class EmailChannel:
    """Implements :class:`worker.channels.Channel`. Connects at the first send, and belongs to the event loop of that send."""

    kind = "email"

    def __init__(
        self,
        settings: Settings,
        *,
        tls_context: ssl.SSLContext | None = None,
        command_patience: float = COMMAND_PATIENCE,
        data_patience: float = DATA_PATIENCE,
        idle_seconds: float = IDLE_SECONDS,
        mails_per_connection: int = MAILS_PER_CONNECTION,
        first_pause: float = FIRST_PAUSE,
    ) -> None:
        """Raises :class:`~worker.errors.SettingsError` if a setting for mail is missing or invalid. All times are seconds.

        ``tls_context`` replaces the system's certificates. The server's certificate is always verified.
        """
        if settings.smtp_server is None:
            raise SettingsError("settings: SMTP_URL is missing: no mail server is set")
        self._composer = Composer(settings)
        self._last_accepted = LastAccepted()
        self._data_patience = data_patience
        self._pool = Pool(
            settings.smtp_server,
            size=settings.smtp_connections,
            # Relays check that the name in EHLO exists. The sender's domain exists; a container's host name does not.
            hello_name=self._composer.sender.domain,
            command_patience=command_patience,
            tls_context=tls_context,
            idle_seconds=idle_seconds,
            mails_per_connection=mails_per_connection,
            first_pause=first_pause,
        )

    async def send(self, message: Message, dispatching: Dispatching) -> Outcome:
        """See :meth:`worker.channels.Channel.send`. A cancelled send closes its connection."""
        mail = self._composer.build(message)
        if not isinstance(mail, Mail):
            return mail
        while True:
            try:
                async with self._pool.connection() as connection:
                    outcome = await hand_over(connection, mail, dispatching, data_patience=self._data_patience)
            except Unconnected as error:
                return error.outcome
            except Stale:  # no endless loop: a new connection is never stale, and at most ``size`` are idle
                continue
            return self._pool.backoff.note(for_one_message(message, self._attribute(outcome, mail)))

    def _attribute(self, outcome: Outcome, mail: Mail) -> Outcome:
        """``outcome``, or :class:`Failed` if the server blames our account or the address, but the cause is probably this one mail."""
        if (
            mail.recipient.needs_smtputf8
            and isinstance(outcome, BadAddress | ChannelDown)
            and _may_be_missing_utf8(outcome)
        ):
            return Failed(code=outcome.code)
        # If the relay accepted our mails just before, it may only repeat what one recipient's server said about our sender.
        assessed = self._last_accepted.attribute(
            self.kind, outcome, may_be_address=not outcome.code.startswith(_BEFORE_RCPT)
        )
        if isinstance(outcome, ChannelDown) and isinstance(assessed, TryLater):
            return Failed(code=outcome.code, refusal=assessed.refusal)
        return assessed

    async def check(self) -> Outcome:
        """Whether mail could be sent: connect, TLS, EHLO, AUTH, NOOP, QUIT. ``Sent`` with the code ``ready`` if so."""
        try:
            connection = await self._pool.open()
        except Unconnected as error:
            return error.outcome
        try:
            return await probe(connection)
        finally:
            await connection.quit()

    async def close(self) -> None:
        """Close all connections."""
        await self._pool.close()

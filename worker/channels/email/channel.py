"""Email as a channel: builds the mail, sends it through the pool, classifies what became of it."""

import ssl

from worker.channels import BadAddress, ChannelDown, Dispatching, Failed, Message, Outcome, TryLater
from worker.channels.email.connection import Unconnected
from worker.channels.email.dialogue import DATA_PATIENCE, Stale, hand_over, probe
from worker.channels.email.message import Composer, Mail
from worker.channels.email.pool import FIRST_PAUSE, IDLE_SECONDS, MAILS_PER_CONNECTION, Pool
from worker.channels.standing import Standing
from worker.errors import SettingsError
from worker.settings import Settings

#: Seconds that the server may take over anything but a mail's content.
COMMAND_PATIENCE = 30.0

#: Codes of refusals that came before a recipient was named.
_OF_US_ALL = ("auth_", "mail_")
#: A server that takes SMTPUTF8 by its word and not by its deeds refuses MAIL, or calls the recipient's syntax bad (5.1.3).
_BAD_SYNTAX = " 5.1.3 "


def _may_be_of_utf8(outcome: BadAddress | ChannelDown) -> bool:
    if isinstance(outcome, ChannelDown):
        return outcome.code.startswith("mail_")
    return outcome.refusal is not None and _BAD_SYNTAX in outcome.refusal.what


class EmailChannel:
    """Implements :class:`worker.channels.Channel`. Connects at the first send; belongs to the loop that this happens on."""

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
        """Raises :class:`~worker.errors.SettingsError` where the settings allow no mail. All times are seconds.

        ``tls_context`` replaces the system's certificates; servers are verified against it in any case.
        """
        if settings.smtp_server is None:
            raise SettingsError("settings: SMTP_URL is missing: there is no server to hand mail to")
        self._composer = Composer(settings)
        self._standing = Standing()
        self._data_patience = data_patience
        self._pool = Pool(
            settings.smtp_server,
            size=settings.smtp_connections,
            # Relays want a name that exists. The sender's domain does; a container's host name does not.
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
            except Stale:  # at most once for each connection that was kept; then there are only fresh ones
                continue
            return self._pool.brake.note(self._weigh(outcome, mail))

    def _weigh(self, outcome: Outcome, mail: Mail) -> Outcome:
        """``outcome``, or "failed, this mail alone" where a refusal that names others is probably of this mail."""
        if mail.recipient.needs_smtputf8 and isinstance(outcome, BadAddress | ChannelDown) and _may_be_of_utf8(outcome):
            return Failed(code=outcome.code)
        # A server that has accepted mails of ours repeats what one recipient's own server says of our sender.
        assessed = self._standing.assess(self.kind, outcome, may_be_the_device=not outcome.code.startswith(_OF_US_ALL))
        if isinstance(outcome, ChannelDown) and isinstance(assessed, TryLater):
            return Failed(code=outcome.code, refusal=assessed.refusal)
        return assessed

    async def check(self) -> Outcome:
        """Whether mail could be sent, without sending any: connect, TLS, EHLO, AUTH, NOOP, QUIT; ``Sent`` means that all is well."""
        try:
            connection = await self._pool.open()
        except Unconnected as error:
            return error.outcome
        try:
            return await probe(connection)
        finally:
            await connection.quit()

    async def close(self) -> None:
        """Say goodbye to the server."""
        await self._pool.close()

"""Checks of `reconnect doctor`: the channels, whether due messages can leave, and whether replies are read."""

import asyncio
import re
from collections.abc import Collection
from email.utils import parseaddr

from worker.channels import Channel, Outcome, Sent, TryLater, registry
from worker.settings import Settings
from worker.store.pauses import EVERYTHING, PauseStore, channel_scope, delivery_scope
from worker.store.queries.reports import ReportStore
from worker.store.sql.database import Database

#: Local parts of unread mailboxes, without dashes and dots, in the languages of our mails: ``noreply``, ``nepasrepondre``.
_UNREAD = re.compile(
    r"(no|not|dont|never)(reply|replies|answer|respond|contest(ar|e)$)|nepasr[eé]pondre|^(bounces?|mailerdaemon|"
    r"notifications?|automated|autoreply|unattended)"
)


async def examine_channels(settings: Settings, *, patience: float) -> tuple[bool | None, str]:
    """Whether every configured channel takes messages from us; ``patience``: seconds for each."""
    channels = registry.open_channels(settings, data_patience=30)
    if not channels:
        return None, "SMTP_URL is not set, nor any push service's key, nor MESSENGER_URL"
    try:
        outcomes = dict(
            zip(
                channels,
                await asyncio.gather(*(_ready(channel, patience) for channel in channels.values())),
                strict=True,
            )
        )
    finally:
        for channel in channels.values():
            await channel.close()
    failed_codes = {kind: outcome.code for kind, outcome in outcomes.items() if not isinstance(outcome, Sent)}
    if failed_codes:
        problems = ", ".join(f"{kind} does not take messages from us ({code})" for kind, code in failed_codes.items())
        switches = registry.switches()
        return False, f"{problems}: see {', '.join(switches[kind] for kind in failed_codes)}"
    return True, f"messages are taken by {', '.join(outcomes)}"


async def _ready(channel: Channel, patience: float) -> Outcome:
    try:
        return await asyncio.wait_for(channel.check(), patience)
    except TimeoutError:
        return TryLater(code="no_answer")


async def examine_telling(settings: Settings, database: Database) -> tuple[bool | None, str]:
    """Whether due messages can be sent: a channel is configured, and not all are paused."""
    waiting = await ReportStore(database).waiting_to_be_told()
    pauses = {pause.scope: pause for pause in await PauseStore(database).all()}
    kinds = [kind.name for kind in registry.configured(settings)]
    due = f"{waiting} {'is' if waiting == '1' else 'are'} due" if waiting else "nobody is due"
    if not kinds:
        return False if waiting else None, f"{due}, and no channel is configured: set SMTP_URL, or a push service's key"
    if EVERYTHING in pauses:
        pause = pauses[EVERYTHING]
        return False if waiting else None, f"{due}, and everything is paused ({pause.reason}): `reconnect resume`"
    stopped = {kind: scope for kind in kinds if (scope := _pausing_scope(kind, pauses))}
    if len(stopped) == len(kinds):
        scopes = ", ".join(stopped.values())
        return (
            False if waiting else None,
            f"{due}, and every channel is paused ({scopes}): mend it, then `reconnect resume …`",
        )
    return True, f"{due}; by {', '.join(kind for kind in kinds if kind not in stopped)}"


def _pausing_scope(kind: str, pauses: Collection[str]) -> str | None:
    return next((scope for scope in (channel_scope(kind), delivery_scope(kind)) if scope in pauses), None)


def examine_replies(settings: Settings) -> tuple[bool | None, str]:
    """Whether replies are read. A mail tells its reader to reply in order to unsubscribe; it names no other way."""
    if settings.smtp_url is None:
        return True, "no mail is sent"
    name = "EMAIL_REPLY_TO" if settings.email_reply_to else "EMAIL_FROM"
    local = parseaddr(settings.email_reply_to or settings.email_from or "")[1].rpartition("@")[0].lower()
    if _UNREAD.search(re.sub(r"[-_.]", "", local)):
        return None, (
            f"nobody can unsubscribe: the mail asks for a reply, and {name} is an address that nobody reads; "
            "set EMAIL_REPLY_TO to a mailbox that somebody reads"
        )
    return True, f"go to {name}"

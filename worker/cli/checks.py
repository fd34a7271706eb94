"""The checks of `reconnect doctor`. Each says in one line what it found and, if it failed, what to do.

The command serves as a health check, so it ends within 12 seconds even if a check hangs. The checks run in parallel, each in a
thread of its own. A check that has not ended by then is reported as failed, with what did not answer.
"""

import asyncio
import re
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import parseaddr
from typing import Any

from worker.app import app
from worker.channels import Channel, Outcome, Sent, TryLater, registry
from worker.cli.broker_check import examine_broker
from worker.cli.event_check import examine_events
from worker.cli.public_check import examine_public_address
from worker.errors import WorkerError
from worker.mx.answers import NO_USERS, NOT_MX, RefusedClient
from worker.mx.client import MxClient
from worker.schedules import overdue_since
from worker.settings import Settings, misspelt
from worker.store.encryption import Vault
from worker.store.hints.arriving import NO_MEMBER
from worker.store.pauses import EVERYTHING, PauseStore, channel_scope, delivery_scope
from worker.store.queries.reports import ReportStore
from worker.store.queries.unreadable import UnreadableStore
from worker.store.queries.webhooks import WebhookStore
from worker.store.sql import schema
from worker.store.sql.database import Database, open_engine
from worker.store.syncs.store import SyncStore
from worker.store.syncs.sync import FAILED

Finding = dict[str, Any]


#: How long all checks together may take, and how long one check waits for an answer (seconds). The second is shorter, so that a check
#: can still say what did not answer.
PATIENCE, ANSWER_WITHIN = 12.0, 8.0
#: How long a transaction is retried while the database cannot be reached (seconds).
_DATABASE_PATIENCE = 2.0

#: Hints that wait longer than this wait for a worker, or for MX.
_HINTS_WAIT = timedelta(minutes=15)

#: Passed (``True``), failed (``False``) or only a hint (``None``), and a sentence.
Found = tuple[bool | None, str]


def examine(settings: Settings) -> list[Finding]:
    """The findings of every check. A failure may be the cause of later ones, so causes come first. ``hangs`` marks a check that did
    not end."""
    checks: dict[str, Callable[[Settings], Awaitable[Found]]] = {
        "settings": _settings,
        "schema": _schema,
        "database": _database,
        "keys": _keys,
        "broker": _broker,
        "workers": _workers,
        "sweeps": _sweeps,
        "sync": _sync,
        "webhooks": _webhooks,
        "mx": _mx,
        "channels": _channels,
        "public": _public,
        "telling": _telling,
        "replies": _replies,
        "events": _events,
        "pauses": _pauses,
        "columns": _columns,
    }
    found: dict[str, Found] = {}

    def run(name: str) -> None:
        try:
            found[name] = asyncio.run(_checked(checks[name](settings)))
        except WorkerError as error:
            found[name] = False, str(error)
        except Exception as error:  # noqa: BLE001 - a bug in one check must not hide the findings of the others
            found[name] = False, f"the check itself failed ({type(error).__name__})"

    threads = [threading.Thread(target=run, args=(name,), name=f"check-{name}", daemon=True) for name in checks]
    deadline = time.monotonic() + PATIENCE
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(deadline - time.monotonic(), 0))
    findings: list[Finding] = []
    for name in checks:
        ok, says = found.get(name) or (
            False,
            f"no answer within {PATIENCE:.0f} s: see {_BEHIND.get(name, 'DATABASE_URL')}",
        )
        earlier = next((f["check"] for f in findings if ok is False and f["says"] == says), None)
        findings.append({"check": name, "ok": ok, "says": f"unknown: same failure as {earlier}" if earlier else says})
        if name not in found:
            findings[-1]["hangs"] = True
    return findings


#: The setting to look at when a check hangs. All other checks use the database.
_BEHIND = {
    "broker": "REDIS_URL",
    "workers": "REDIS_URL",
    "mx": "MX_BASE_URL",
    "channels": "SMTP_URL and the network",
    "public": "PUBLIC_BASE_URL",
}


async def _checked(check: Awaitable[Found]) -> Found:
    return await check


@asynccontextmanager
async def _reports(settings: Settings) -> AsyncIterator[tuple[Database, ReportStore]]:
    """A database connection that is retried for two seconds only."""
    database = Database(open_engine(settings), retry_seconds=_DATABASE_PATIENCE)
    try:
        yield database, ReportStore(database)
    finally:
        await database.close()


async def _settings(_: Settings) -> Found:
    lines = misspelt()
    return (None, "; ".join(lines)) if lines else (True, "are read, and no name looks like a misspelt one")


async def _schema(settings: Settings) -> Found:
    current, newest = schema.revisions(settings)
    if current != newest:
        return False, f"is at {current or 'nothing'}, this version needs {newest}: run `reconnect migrate`"
    return True, f"is at {current}"


async def _database(settings: Settings) -> Found:
    async with _reports(settings) as (_, reports):
        await reports.last_sweep()
    return True, "answers"


async def _keys(settings: Settings) -> Found:
    async with _reports(settings) as (_, reports):
        stored = await reports.newest_uri()
    vault = Vault(settings)
    vault.decrypt(stored or vault.encrypt("https://example.com"))
    return True, f"{len(settings.uri_keys)} in URI_KEYS, " + (
        "the newest stored URI opens" if stored else "no URI stored yet"
    )


async def _broker(settings: Settings) -> Found:
    return examine_broker(settings)


async def _workers(_: Settings) -> Found:
    try:
        # Most workers answer within a second. If none does, all may be busy: wait longer for one of them.
        answers = app.control.ping(timeout=1.0) or app.control.broadcast(
            "ping", reply=True, timeout=ANSWER_WITHIN - 3, limit=1
        )
    except Exception as error:  # noqa: BLE001 - the broker's check reports the cause
        return None, f"cannot be asked ({type(error).__name__})"
    if not answers:
        return (
            False,
            "none answers, so no work is done: start one with `celery -A worker.app worker`, or `reconnect up`",
        )
    return True, f"{len(answers)} running"


async def _sweeps(settings: Settings) -> Found:
    async with _reports(settings) as (_, reports):
        overdue, last = await reports.overdue_sweeps(settings.sweep_schedule), await reports.last_sweep()
        if overdue is not None:
            return False, f"{overdue.text} (SWEEP_SCHEDULE={settings.sweep_schedule})"
        if last is not None:
            return True, f"the last began {_minute(last['started_at'])}"
        if not await reports.has_members():
            return None, "none yet, and no members: import some"
    return (
        False,
        f"none yet, so no message is sent: start beat or cron ({settings.sweep_schedule}), or run `reconnect sweep`",
    )


async def _sync(settings: Settings) -> Found:
    """Whether MX is listed when it should be, and what the last sync found."""
    async with _reports(settings) as (database, _):
        last = await SyncStore(database).last()
    line = settings.sync_schedule
    if last is None:
        if line is None:
            return True, "MX is not listed: SYNC_SCHEDULE is not set"
        return None, f"none yet (SYNC_SCHEDULE={line}): beat has one done when it starts"
    if last.phase == FAILED:
        return False, f"the last {last.says}"
    since = None if line is None else overdue_since(line, last.started_at, datetime.now(UTC))
    if since is not None:
        return False, (
            f"overdue since {_minute(since)} (SYNC_SCHEDULE={line}): see that beat runs and that a worker takes the queue "
            f"`sync`; the last {last.says}"
        )
    return True, f"the last {last.says}"


def _minute(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"


async def _webhooks(settings: Settings) -> Found:
    """Whether MX can tell us something, and whether what it told is read."""
    if settings.mx_webhook_auth is None:
        return True, "none are taken: MX_WEBHOOK_AUTH is not set"
    if settings.public_base_url is None:
        return False, "MX cannot reach this worker: MX_WEBHOOK_AUTH is set, and PUBLIC_BASE_URL is not"
    async with _reports(settings) as (database, _):
        came = await WebhookStore(database).lately()
    if came.last_received_at is None:
        return None, f"none came within two days: is {settings.public_base_url}/webhooks/mx registered at MX?"
    if came.waiting_since is not None and datetime.now(UTC) - came.waiting_since > _HINTS_WAIT:
        return False, (
            f"{came.shown_waiting} wait to be read since {_minute(came.waiting_since)}: see `pauses`, and that a worker takes "
            "the queue `sync`"
        )
    bad = [f"{count} {word}" for word, count in came.not_used.items() if word != NO_MEMBER]
    says = f"the last came {_minute(came.last_received_at)}"
    return (None, f"{says}; within two days not used: {', '.join(bad)} (see the runbook)") if bad else (True, says)


async def _mx(settings: Settings) -> Found:
    client = MxClient(settings, deadline=ANSWER_WITHIN)
    try:
        failure = await client.probe()
    finally:
        await client.close()
    if failure is None:
        return True, f"{settings.mx_base_url} accepts the credentials"
    if isinstance(failure, RefusedClient):
        return (
            None if failure.code in {NOT_MX, NO_USERS} else False,
            f"{settings.mx_base_url} refuses us ({failure.code}): {_REFUSALS.get(failure.code, 'see the credentials')}",
        )
    return False, f"{settings.mx_base_url} does not answer our requests now ({failure.code})"


async def _public(settings: Settings) -> Found:
    return await examine_public_address(settings, patience=ANSWER_WITHIN)


_REFUSALS = {
    "http_401": "see MX_API_KEY and MX_CLIENT_ID, and whether they belong to this MX_API",
    "http_403": "in production MX takes requests only from addresses that you have registered with it",
    NOT_MX: "it does not answer with a list of users where MX does, so it may not be MX; see MX_BASE_URL",
    NO_USERS: "it lists no users at all, so a 404 for a member proves nothing; see MX_BASE_URL and MX_CLIENT_ID",
    "http_406": "it does not speak this version of the API; see MX_API and MX_BASE_URL",
}


async def _channels(settings: Settings) -> Found:
    channels = registry.open_channels(settings, data_patience=30)
    if not channels:
        return None, "SMTP_URL is not set, nor any push service's key, nor MESSENGER_URL"
    try:
        found = dict(zip(channels, await asyncio.gather(*map(_ready, channels.values())), strict=True))
    finally:
        for channel in channels.values():
            await channel.close()
    bad = {kind: outcome.code for kind, outcome in found.items() if not isinstance(outcome, Sent)}
    if bad:
        says = ", ".join(f"{kind} does not take messages from us ({code})" for kind, code in bad.items())
        switches = registry.switches()
        return False, f"{says}: see {', '.join(switches[kind] for kind in bad)}"
    return True, f"messages are taken by {', '.join(found)}"


async def _ready(channel: Channel) -> Outcome:
    try:
        return await asyncio.wait_for(channel.check(), ANSWER_WITHIN)
    except TimeoutError:
        return TryLater(code="no_answer")


async def _telling(settings: Settings) -> Found:
    """Whether due messages can be sent: a channel is configured, and not all are paused."""
    async with _reports(settings) as (database, reports):
        waiting = await reports.waiting_to_be_told()
        pauses = {pause.scope: pause for pause in await PauseStore(database).all()}
    kinds = [kind.name for kind in registry.configured(settings)]
    due = f"{waiting} {'is' if waiting == '1' else 'are'} due" if waiting else "nobody is due"
    if not kinds:
        return False if waiting else None, f"{due}, and no channel is configured: set SMTP_URL, or a push service's key"
    if EVERYTHING in pauses:
        pause = pauses[EVERYTHING]
        return False if waiting else None, f"{due}, and everything is paused ({pause.reason}): `reconnect resume`"
    stopped = {kind: held for kind in kinds if (held := _held(kind, pauses))}
    if len(stopped) == len(kinds):
        scopes = ", ".join(stopped.values())
        return (
            False if waiting else None,
            f"{due}, and every channel is paused ({scopes}): mend it, then `reconnect resume …`",
        )
    return True, f"{due}; by {', '.join(kind for kind in kinds if kind not in stopped)}"


def _held(kind: str, pauses: Collection[str]) -> str | None:
    return next((scope for scope in (channel_scope(kind), delivery_scope(kind)) if scope in pauses), None)


#: Local parts of addresses that nobody reads, without dashes and dots, in the languages of our mails: ``noreply``, ``nepasrepondre``.
_UNREAD = re.compile(
    r"(no|not|dont|never)(reply|replies|answer|respond|contest(ar|e)$)|nepasr[eé]pondre|^(bounces?|mailerdaemon|"
    r"notifications?|automated|autoreply|unattended)"
)


async def _replies(settings: Settings) -> Found:
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


async def _columns(settings: Settings) -> Found:
    async with _reports(settings) as (database, _):
        counts = await UnreadableStore(database).counts()
    if not counts:
        return True, "everything that your application wrote is understood"
    says = "; ".join(str(kind) for kind in counts)
    return None, f"{says}: see what your application writes there (docs/database.md)"


async def _events(settings: Settings) -> Found:
    async with _reports(settings) as (database, _):
        return await examine_events(settings, database)


async def _pauses(settings: Settings) -> Found:
    async with _reports(settings) as (database, _):
        pauses = await PauseStore(database).all()
    if not pauses:
        return True, "nothing is paused"
    says = "; ".join(f"{p.scope} since {p.since:%Y-%m-%d %H:%M} UTC: {p.reason}" for p in pauses)
    return (None if all(p.by_hand for p in pauses) else False), says

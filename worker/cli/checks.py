"""The checks of `reconnect doctor`. Each says in one line what it found and, if it failed, what to do.

The command serves as a health check, so it ends within 12 seconds even if a check hangs. The checks run in parallel, each in a
thread of its own. A check that has not ended by then is reported as failed, with what did not answer.
"""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from worker.app import app
from worker.cli.broker_check import examine_broker
from worker.cli.channel_checks import examine_channels, examine_replies, examine_telling
from worker.cli.event_check import examine_events
from worker.cli.mx_checks import examine_mx, examine_sync, examine_webhooks, minute
from worker.cli.public_check import examine_public_address
from worker.errors import WorkerError
from worker.settings import Settings, misspelt
from worker.store.encryption import Vault
from worker.store.pauses import PauseStore
from worker.store.queries.reports import ReportStore
from worker.store.queries.unreadable import UnreadableStore
from worker.store.sql import schema
from worker.store.sql.database import Database, open_engine

Finding = dict[str, Any]


#: How long all checks together may take, and how long one check waits for an answer (seconds). The second is shorter, so that a check
#: can still say what did not answer.
PATIENCE, ANSWER_WITHIN = 12.0, 8.0
#: How long a transaction is retried while the database cannot be reached (seconds).
_DATABASE_PATIENCE = 2.0


#: Passed (``True``), failed (``False``) or only a hint (``None``), and a sentence.
CheckResult = tuple[bool | None, str]


def examine(settings: Settings) -> list[Finding]:
    """The findings of every check. A failure may be the cause of later ones, so causes come first. ``hangs`` marks a check that did
    not end."""
    checks: dict[str, Callable[[Settings], Awaitable[CheckResult]]] = {
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
    results: dict[str, CheckResult] = {}

    def run(name: str) -> None:
        try:
            results[name] = asyncio.run(_checked(checks[name](settings)))
        except WorkerError as error:
            results[name] = False, str(error)
        except Exception as error:  # noqa: BLE001 - a bug in one check must not hide the findings of the others
            results[name] = False, f"the check itself failed ({type(error).__name__})"

    threads = [threading.Thread(target=run, args=(name,), name=f"check-{name}", daemon=True) for name in checks]
    deadline = time.monotonic() + PATIENCE
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(deadline - time.monotonic(), 0))
    findings: list[Finding] = []
    for name in checks:
        ok, says = results.get(name) or (
            False,
            f"no answer within {PATIENCE:.0f} s: see {_SETTING_TO_SEE.get(name, 'DATABASE_URL')}",
        )
        earlier = next((f["check"] for f in findings if ok is False and f["says"] == says), None)
        findings.append({"check": name, "ok": ok, "says": f"unknown: same failure as {earlier}" if earlier else says})
        if name not in results:
            findings[-1]["hangs"] = True
    return findings


#: The setting to look at when a check hangs. All other checks use the database.
_SETTING_TO_SEE = {
    "broker": "REDIS_URL",
    "workers": "REDIS_URL",
    "mx": "MX_BASE_URL",
    "channels": "SMTP_URL and the network",
    "public": "PUBLIC_BASE_URL",
}


async def _checked(check: Awaitable[CheckResult]) -> CheckResult:
    return await check


@asynccontextmanager
async def _reports(settings: Settings) -> AsyncIterator[tuple[Database, ReportStore]]:
    """A database connection that is retried for two seconds only."""
    database = Database(open_engine(settings), retry_seconds=_DATABASE_PATIENCE)
    try:
        yield database, ReportStore(database)
    finally:
        await database.close()


async def _settings(_: Settings) -> CheckResult:
    lines = misspelt()
    return (None, "; ".join(lines)) if lines else (True, "are read, and no name looks like a misspelt one")


async def _schema(settings: Settings) -> CheckResult:
    current, newest = schema.revisions(settings)
    if current != newest:
        return False, f"is at {current or 'nothing'}, this version needs {newest}: run `reconnect migrate`"
    return True, f"is at {current}"


async def _database(settings: Settings) -> CheckResult:
    async with _reports(settings) as (_, reports):
        await reports.last_sweep()
    return True, "answers"


async def _keys(settings: Settings) -> CheckResult:
    async with _reports(settings) as (_, reports):
        stored = await reports.newest_uri()
    vault = Vault(settings)
    vault.decrypt(stored or vault.encrypt("https://example.com"))
    return True, f"{len(settings.uri_keys)} in URI_KEYS, " + (
        "the newest stored URI opens" if stored else "no URI stored yet"
    )


async def _broker(settings: Settings) -> CheckResult:
    return examine_broker(settings)


async def _workers(_: Settings) -> CheckResult:
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


async def _sweeps(settings: Settings) -> CheckResult:
    async with _reports(settings) as (_, reports):
        overdue, last = await reports.overdue_sweeps(settings.sweep_schedule), await reports.last_sweep()
        if overdue is not None:
            return False, f"{overdue.text} (SWEEP_SCHEDULE={settings.sweep_schedule})"
        if last is not None:
            return True, f"the last began {minute(last['started_at'])}"
        if not await reports.has_members():
            return None, "none yet, and no members: import some"
    return (
        False,
        f"none yet, so no message is sent: start beat or cron ({settings.sweep_schedule}), or run `reconnect sweep`",
    )


async def _sync(settings: Settings) -> CheckResult:
    async with _reports(settings) as (database, _):
        return await examine_sync(settings, database)


async def _webhooks(settings: Settings) -> CheckResult:
    async with _reports(settings) as (database, _):
        return await examine_webhooks(settings, database)


async def _mx(settings: Settings) -> CheckResult:
    return await examine_mx(settings, patience=ANSWER_WITHIN)


async def _public(settings: Settings) -> CheckResult:
    return await examine_public_address(settings, patience=ANSWER_WITHIN)


async def _channels(settings: Settings) -> CheckResult:
    return await examine_channels(settings, patience=ANSWER_WITHIN)


async def _telling(settings: Settings) -> CheckResult:
    async with _reports(settings) as (database, _):
        return await examine_telling(settings, database)


async def _replies(settings: Settings) -> CheckResult:
    return examine_replies(settings)


async def _columns(settings: Settings) -> CheckResult:
    async with _reports(settings) as (database, _):
        counts = await UnreadableStore(database).counts()
    if not counts:
        return True, "everything that your application wrote is understood"
    sentence = "; ".join(str(kind) for kind in counts)
    return None, f"{sentence}: see what your application writes there (docs/database.md)"


async def _events(settings: Settings) -> CheckResult:
    async with _reports(settings) as (database, _):
        return await examine_events(settings, database)


async def _pauses(settings: Settings) -> CheckResult:
    async with _reports(settings) as (database, _):
        pauses = await PauseStore(database).all()
    if not pauses:
        return True, "nothing is paused"
    sentence = "; ".join(f"{p.scope} since {p.since:%Y-%m-%d %H:%M} UTC: {p.reason}" for p in pauses)
    return (None if all(p.by_hand for p in pauses) else False), sentence

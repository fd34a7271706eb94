"""What `reconnect doctor` looks at. Each check says what it found in one line and, where it fails, what to do."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from worker.app import app
from worker.channels import Sent
from worker.channels.opening import open_channels
from worker.errors import WorkerError
from worker.mx.answers import RefusedClient
from worker.mx.client import NOT_MX, MxClient
from worker.settings import Settings, misspelt
from worker.store import schema
from worker.store.database import Database, open_engine
from worker.store.encryption import Vault
from worker.store.pauses import PauseStore
from worker.store.reports import ReportStore

Finding = dict[str, Any]


def examine(settings: Settings) -> list[Finding]:
    """Every check, in the order in which a failure explains the next."""
    return asyncio.run(_examine(settings))


async def _examine(settings: Settings) -> list[Finding]:
    checks: dict[str, Callable[[Settings], Awaitable[tuple[bool | None, str]]]] = {
        "settings": _settings,
        "schema": _schema,
        "database": _database,
        "keys": _keys,
        "broker": _broker,
        "workers": _workers,
        "mx": _mx,
        "channels": _channels,
        "pauses": _pauses,
    }
    findings = []
    for name, check in checks.items():
        try:
            ok, says = await check(settings)
        except WorkerError as error:
            ok, says = False, str(error)
        findings.append({"check": name, "ok": ok, "says": says})
    return findings


async def _settings(_: Settings) -> tuple[bool | None, str]:
    lines = misspelt()
    return (None, "; ".join(lines)) if lines else (True, "are read, and no name looks like a misspelt one")


async def _schema(settings: Settings) -> tuple[bool, str]:
    current, newest = await asyncio.to_thread(schema.revisions, settings)
    if current != newest:
        return False, f"is at {current or 'nothing'}, this version needs {newest}: run `reconnect migrate`"
    return True, f"is at {current}"


async def _database(settings: Settings) -> tuple[bool, str]:
    database = Database(open_engine(settings))
    try:
        sweep = await ReportStore(database).last_sweep()
    finally:
        await database.close()
    return True, f"answers; last sweep {sweep['started_at']:%Y-%m-%d %H:%M} UTC" if sweep else "answers; no sweep yet"


async def _keys(settings: Settings) -> tuple[bool, str]:
    database = Database(open_engine(settings))
    try:
        stored = await ReportStore(database).newest_uri()
    finally:
        await database.close()
    vault = Vault(settings)
    vault.unlock(stored or vault.lock("https://example.com"))
    return True, f"{len(settings.uri_keys)} in URI_KEYS, " + (
        "the newest stored URI opens" if stored else "no URI stored yet"
    )


async def _broker(settings: Settings) -> tuple[bool, str]:
    import redis

    client = redis.Redis.from_url(settings.redis_url.get_secret_value(), socket_connect_timeout=3, socket_timeout=3)
    try:
        memory = await asyncio.to_thread(client.config_get, "maxmemory-policy")
        policy = dict(memory).get("maxmemory-policy", "noeviction")
    except redis.exceptions.ResponseError:
        return (
            True,
            "answers (its configuration cannot be read, as with hosted ones; see that maxmemory-policy is noeviction)",
        )
    except redis.exceptions.RedisError as error:
        return False, f"{type(error).__name__}: see that Redis runs and REDIS_URL is right"
    finally:
        client.close()
    if policy != "noeviction":
        return False, f"maxmemory-policy is {policy}: set noeviction, or messages vanish when memory is short"
    return True, "answers, maxmemory-policy noeviction"


async def _workers(_: Settings) -> tuple[bool | None, str]:
    try:
        answers = await asyncio.to_thread(app.control.ping, timeout=1.0)
    except Exception as error:  # noqa: BLE001 - the broker's check has said why
        return None, f"cannot be asked ({type(error).__name__})"
    if not answers:
        return None, "none answers: start one with `celery -A worker.app worker`, or `reconnect up`"
    return True, f"{len(answers)} running"


async def _mx(settings: Settings) -> tuple[bool | None, str]:
    client = MxClient(settings, deadline=15)
    try:
        failure = await client.probe()
    finally:
        await client.close()
    if failure is None:
        return True, f"{settings.mx_base_url} accepts the credentials"
    if isinstance(failure, RefusedClient):
        return (
            None if failure.code == NOT_MX else False,
            f"{settings.mx_base_url} refuses us ({failure.code}): {_REFUSALS.get(failure.code, 'see the credentials')}",
        )
    return False, f"{settings.mx_base_url} does not serve us now ({failure.code})"


_REFUSALS = {
    "http_401": "see MX_API_KEY and MX_CLIENT_ID",
    "http_403": "in production MX takes requests only from addresses that you have registered with it",
    NOT_MX: "it answers 404 even to the list of users, so it may not be MX; see MX_BASE_URL",
    "http_406": "it does not speak this version of the API; see MX_API and MX_BASE_URL",
}


async def _channels(settings: Settings) -> tuple[bool | None, str]:
    channels = open_channels(settings, data_patience=30)
    if not channels:
        return None, "SMTP_URL is not set, nor any push service's key: nobody can be told"
    found = {}
    try:
        for kind, channel in channels.items():
            found[kind] = await channel.check()
    finally:
        for channel in channels.values():
            await channel.close()
    bad = {kind: outcome.code for kind, outcome in found.items() if not isinstance(outcome, Sent)}
    if bad:
        told = ", ".join(f"{kind} does not take messages from us ({code})" for kind, code in bad.items())
        return False, f"{told}: see {', '.join(_WHERE[kind] for kind in bad)}"
    return True, f"messages are taken by {', '.join(found)}"


_WHERE = {
    "email": "SMTP_URL",
    "fcm": "FCM_SERVICE_ACCOUNT_FILE",
    "apns": "APNS_KEY_FILE",
    "webpush": "WEBPUSH_VAPID_KEY_FILE",
}


async def _pauses(settings: Settings) -> tuple[bool | None, str]:
    database = Database(open_engine(settings))
    try:
        pauses = await PauseStore(database).all()
    finally:
        await database.close()
    if not pauses:
        return True, "nothing stands still"
    told = "; ".join(f"{p.scope} since {p.since:%Y-%m-%d %H:%M} UTC: {p.reason}" for p in pauses)
    return (None if all(p.by_hand for p in pauses) else False), told

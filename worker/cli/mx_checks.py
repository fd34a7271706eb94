"""The checks of MX in `reconnect doctor`: its API, the last sync, and its webhooks."""

from datetime import UTC, datetime, timedelta

from worker.mx.answers import NO_USERS, NOT_MX, RefusedClient
from worker.mx.client import MxClient
from worker.schedules import overdue_since
from worker.settings import Settings
from worker.store.hints.arriving import NO_MEMBER
from worker.store.queries.webhooks import WebhookStore
from worker.store.sql.database import Database
from worker.store.syncs.store import SyncStore
from worker.store.syncs.sync import FAILED

#: Hints that wait longer than this are late: no worker reads them, or MX does not answer.
_HINTS_WAIT = timedelta(minutes=15)

_REFUSALS = {
    "http_401": "see MX_API_KEY and MX_CLIENT_ID, and whether they belong to this MX_API",
    "http_403": "in production MX takes requests only from addresses that you have registered with it",
    NOT_MX: "it does not answer with a list of users where MX does, so it may not be MX; see MX_BASE_URL",
    NO_USERS: "it lists no users at all, so a 404 for a member proves nothing; see MX_BASE_URL and MX_CLIENT_ID",
    "http_406": "it does not speak this version of the API; see MX_API and MX_BASE_URL",
}


async def examine_mx(settings: Settings, *, patience: float) -> tuple[bool | None, str]:
    """Whether MX accepts the credentials; ``patience``: seconds."""
    client = MxClient(settings, deadline=patience)
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


async def examine_sync(settings: Settings, database: Database) -> tuple[bool | None, str]:
    """Whether syncs are run on time, and what the last one found."""
    last = await SyncStore(database).last()
    schedule = settings.sync_schedule
    if last is None:
        if schedule is None:
            return True, "MX is not listed: SYNC_SCHEDULE is not set"
        return None, f"none yet (SYNC_SCHEDULE={schedule}): the next sweep has one begun"
    if last.phase == FAILED:
        return False, f"the last {last.says}"
    since = None if schedule is None else overdue_since(schedule, last.started_at, datetime.now(UTC))
    if since is not None:
        return False, (
            f"overdue since {minute(since)} (SYNC_SCHEDULE={schedule}): see that sweeps run and that a worker takes the queue "
            f"`sync`; the last {last.says}"
        )
    return True, f"the last {last.says}"


async def examine_webhooks(settings: Settings, database: Database) -> tuple[bool | None, str]:
    """Whether webhooks are configured and come, and whether their hints are read."""
    if settings.mx_webhook_auth is None:
        return True, "none are taken: MX_WEBHOOK_AUTH is not set"
    if settings.public_base_url is None:
        return False, "MX cannot reach this worker: MX_WEBHOOK_AUTH is set, and PUBLIC_BASE_URL is not"
    webhooks = await WebhookStore(database).lately()
    if webhooks.last_received_at is None:
        return None, f"none came within two days: is {settings.public_base_url}/webhooks/mx registered at MX?"
    if webhooks.waiting_since is not None and datetime.now(UTC) - webhooks.waiting_since > _HINTS_WAIT:
        return False, (
            f"{webhooks.shown_waiting} wait to be read since {minute(webhooks.waiting_since)}: see `pauses`, and that a worker takes "
            "the queue `sync`"
        )
    unused = [f"{count} {word}" for word, count in webhooks.not_used.items() if word != NO_MEMBER]
    sentence = f"the last came {minute(webhooks.last_received_at)}"
    return (
        (None, f"{sentence}; within two days not used: {', '.join(unused)} (see the runbook)")
        if unused
        else (True, sentence)
    )


def minute(moment: datetime) -> str:
    """A moment as checks print it."""
    return f"{moment:%Y-%m-%d %H:%M} UTC"

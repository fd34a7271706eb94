"""The check of events in `reconnect doctor`: whether the endpoint accepts them. It posts none."""

from datetime import timedelta
from urllib.parse import urlsplit

from worker.settings import Settings
from worker.store.events.queue import EventStore
from worker.store.pauses import EVENTS, EVERYTHING, PauseStore
from worker.store.sql.database import Database

#: An event that waits longer than this is late. Usually a run is woken within seconds, at the latest by a sweep after a few minutes.
LATE = timedelta(minutes=30)


async def examine_events(settings: Settings, database: Database) -> tuple[bool | None, str]:
    """Fails if the breaker is open, or if events are late. A hint if everything is paused, or if events were given up."""
    if settings.events_url is None:
        return True, "EVENTS_URL is not set: no events are sent"
    host = urlsplit(settings.events_url.get_secret_value()).hostname
    store = EventStore(database)
    standing, late = await store.standing(), await store.late(LATE)
    pauses = {pause.scope: pause for pause in await PauseStore(database).all()}
    if EVERYTHING in pauses:
        return None, f"{standing.waiting} events wait: everything is paused"
    if (pause := pauses.get(EVENTS)) is not None:
        return False, (
            f"{host}: {pause.reason}; {standing.waiting} events wait and none is lost: mend the endpoint, or see "
            "EVENTS_URL and EVENTS_SECRETS; `reconnect resume events` tries at once"
        )
    if late:
        return False, (
            f"{standing.waiting} events wait, the oldest since {standing.oldest_waiting_at:%Y-%m-%d %H:%M} UTC: see that a "
            "worker takes the queue `events`, and `reconnect events`"
        )
    if standing.failed:
        return None, f"{standing.failed} were given up after three days: see `reconnect events`"
    return True, f"{host} accepts them, {standing.waiting} wait"

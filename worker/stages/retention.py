"""Retention: the end of each sweep counts the days that are over, and deletes what is older than ``RETENTION_DAYS``.

It takes a few seconds of a sweep at most, in small transactions. What one sweep does not come to, the next one does. Killed anywhere, it
leaves whole histories: a batch is deleted with all that hangs on it, or not at all. Two sweeps at once delete different rows.
"""

import time
from datetime import datetime

import structlog

from worker.policy.retention import age_of_deletion
from worker.runtime import Runtime
from worker.store.transactions.retention import BATCH, RetentionStore

log = structlog.get_logger()

#: So long may it take of one sweep (seconds): 3 % of the time, where sweeps are five minutes apart.
MOST_SECONDS = 10.0


async def retain(runtime: Runtime, now: datetime) -> int:
    """Count and delete; returns how many rows of their own were deleted. Those that hang on a reconnection are not counted."""
    store, settings = runtime.database.store(RetentionStore), runtime.settings
    until = time.monotonic() + MOST_SECONDS

    def go_on() -> bool:
        return time.monotonic() < until and not runtime.stopping.is_set()

    while await store.count_a_day(now):
        if not go_on():
            return 0  # what is not counted must not be deleted
    if settings.retention_days is None:
        return 0
    cut = now - age_of_deletion(
        settings.retention_days, notice_days=settings.expiry_notice_days, caps=settings.message_caps
    )
    deleted = 0
    for batch in (
        store.delete_reconnections,
        store.delete_emptied,
        store.delete_links,
        store.delete_messages,
        store.delete_runs,
        store.delete_events,
    ):
        while True:
            found = await batch(cut, now)
            deleted += found
            if found < BATCH or not go_on():
                break
    if deleted:
        log.info("deleted_old", rows=deleted, ended_before=cut.isoformat(timespec="seconds"))
    return deleted

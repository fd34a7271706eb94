"""Retention: the end of each sweep counts the days that are over, and deletes what is older than ``RETENTION_DAYS``.

It takes at most about 10 s of a sweep, in small transactions; the next sweep continues. A kill leaves no partial history: a batch is
deleted with all rows that refer to it, or not at all. Two sweeps at once delete different rows.
"""

import time
from datetime import datetime

import structlog

from worker.policy.retention import age_of_deletion
from worker.runtime import Runtime
from worker.store.transactions.retention import BATCH, RetentionStore

log = structlog.get_logger()

#: The most time it takes in one sweep (seconds): 3 % of the time, if sweeps are five minutes apart.
MOST_SECONDS = 10.0


async def retain(runtime: Runtime, now: datetime) -> int:
    """Count and delete; returns how many rows were deleted, without those that were deleted along with a reconnection."""
    store, settings = runtime.database.store(RetentionStore), runtime.settings
    until = time.monotonic() + MOST_SECONDS

    def has_time() -> bool:
        return time.monotonic() < until and not runtime.stopping.is_set()

    while await store.count_a_day(now):
        if not has_time():
            return 0  # no day may be deleted before it is counted
    if settings.retention_days is None:
        return 0
    delete_before = now - age_of_deletion(
        settings.retention_days, notice_days=settings.expiry_notice_days, caps=settings.message_caps
    )
    deleted = 0
    for delete_batch in (
        store.delete_reconnections,
        store.delete_emptied,
        store.delete_links,
        store.delete_messages,
        store.delete_runs,
        store.delete_events,
    ):
        while True:
            deleted_rows = await delete_batch(delete_before, now)
            deleted += deleted_rows
            if deleted_rows < BATCH or not has_time():
                break
    if deleted:
        log.info("deleted_old", rows=deleted, ended_before=delete_before.isoformat(timespec="seconds"))
    return deleted

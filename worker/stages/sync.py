"""Sync: list all users and members at MX, and write what differs into our tables.

1. Lease the unfinished sync, or begin a new one. Only one is under way at a time.
2. **Listing.** Pages of users are stored together with the checkpoint. For each user the pages of their members are read, hundreds at a
   time, and written in batches. Members of our tables that a user's list lacks are noted.
3. The members of users whom MX did not list are noted as well. If that is more than a tenth of all members, the sync ends with an
   error, and none of them counts as gone.
4. **Checking.** Each noted member is read alone. Only a 404 makes it gone. If MX answers with another GUID, the member moved.
5. Commit what was found.

A killed sync continues at its checkpoint. If MX refuses us or fails in a streak, the sync stays unfinished. The next `reconnect sync`
continues it, or a task that the next sweep wakes. No failed attempt is counted.

How an answer is applied is in ``store/from_mx``; which lists are not believed is in ``policy/list_checks.py``.
"""

import os
from contextlib import suppress
from datetime import datetime, timedelta
from time import monotonic

import msgspec
import structlog

from worker.errors import WorkerError
from worker.policy.list_checks import ListLies, Position, shrank
from worker.runtime import Runtime
from worker.schedules import slots_after
from worker.stages.breaker import Breaker
from worker.stages.sync_pass_base import MxHealth, Progress, lease_of
from worker.stages.sync_passes import USERS_A_PAGE, Checking, Listing
from worker.store.pauses import EVERYTHING, MX, PauseStore
from worker.store.syncs.store import SyncStore
from worker.store.syncs.sync import (
    CHECKING,
    FAILED,
    FINISHED,
    LISTING,
    Busy,
    Sync,
    complete,
    counts_in_words,
)

log = structlog.get_logger()

_FOREVER = float("inf")
#: If a sync began further in the future than this, the clock was wrong then.
_AHEAD = timedelta(minutes=1)
#: The operator's options if a list is not believed.
_ACCEPT = "see that MX_BASE_URL and the credentials are right; `reconnect sync --accept-shorter` believes the list"


class SyncEnded(WorkerError):  # noqa: N818 - it names what the operator sees
    """The sync did not finish; the text says why, and what to do."""


class SyncResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a run of a sync did."""

    #: `finished`, or `unfinished` if its time was over.
    state: str
    found: dict[str, int]
    #: The entries that MX serves a page, if they are fewer than it was asked for.
    lowered_to: int | None = None

    @property
    def summary(self) -> str:
        """One line."""
        figures = counts_in_words(self.found)
        return (
            figures
            if self.lowered_to is None
            else f"{figures}; MX serves {self.lowered_to} users a page, not {USERS_A_PAGE}"
        )


async def sync_all(
    runtime: Runtime,
    *,
    begin: bool,
    seconds: float = _FOREVER,
    accept_shorter: bool = False,
    progress: Progress | None = None,
) -> SyncResult | None:
    """List everything, for ``seconds`` at most. Returns ``None`` if no sync is unfinished and ``begin`` is false.

    Raises :class:`Busy` if another process works on it, and :class:`SyncEnded` if it cannot finish.
    """
    now = await runtime.set_clock()
    store = runtime.database.store(SyncStore)
    lease = lease_of(runtime)
    unfinished = await store.unfinished()
    lease_worker = unfinished.lease_worker if unfinished is not None else None
    dead_worker = lease_worker if runs_here(runtime, lease_worker) is False else None
    sync = await store.take(runtime.worker_id, seconds=lease, now=now, begin=begin, dead=dead_worker)
    if sync is None:
        return None
    if sync.taken == 0 and not sync.has_all_users:
        await store.start_afresh(sync, seconds=lease, now=now)
    run = _Run(runtime, store, sync, accept_shorter=accept_shorter, progress=progress or Progress())
    runtime.pacing.wait_behind_others(patient=True)
    try:
        return await run.go_on(seconds)
    except ListLies as lie:
        why = f"MX's list of users is not believed: {lie}. Nothing counts as gone; {_ACCEPT}"
        await store.end(sync, FAILED, why, runtime.clock.now())
        log.error("sync_failed", why=str(lie), what_to_do=_ACCEPT)  # noqa: TRY400 - one line says it all
        raise SyncEnded(f"sync: {why}") from None
    finally:
        runtime.pacing.wait_behind_others(patient=False)
        if sync.finished_at is None:
            with suppress(WorkerError):  # its lease runs out by itself
                await store.release(sync)


class _Run:
    """One run of a sync whose lease is ours."""

    def __init__(
        self, runtime: Runtime, store: SyncStore, sync: Sync, *, accept_shorter: bool, progress: Progress
    ) -> None:
        self._runtime = runtime
        self._store = store
        self._sync = sync
        self._lease = lease_of(runtime)
        self._accept_shorter = accept_shorter
        self._progress = progress
        self._lowered: int | None = None

    async def go_on(self, seconds: float) -> SyncResult:
        """Work until the sync is finished, or the time is over."""
        ends_at = monotonic() + seconds
        while self._sync.phase == LISTING:
            if not await self._list(ends_at):
                return self._result("unfinished")
        while self._sync.phase == CHECKING:
            if not await self._check(ends_at):
                return self._result("unfinished")
        return self._result(FINISHED)

    def _result(self, state: str) -> SyncResult:
        return SyncResult(state=state, found=complete(self._sync.found), lowered_to=self._lowered)

    async def _list(self, ends_at: float) -> bool:
        """One pass over the users to be listed. Returns whether to continue."""
        sync, store, progress = self._sync, self._store, self._progress
        known_users = await store.known_users()
        last_sync = await store.last_finished()

        def check_total(total: int) -> None:
            expected_total = max(known_users, last_sync.total or 0 if last_sync is not None else 0)
            if shrank(expected_total, total) and not self._accept_shorter:
                raise ListLies(
                    f"it has {total} entries, and {expected_total} users were known: shorter by more than a tenth"
                )

        progress.phase, progress.done = LISTING, await store.done_users()
        progress.total = max(sync.total or 0, progress.done)
        mx_health = MxHealth()
        listing = Listing(
            self._runtime, store, sync, mx_health, progress,
            seconds=ends_at - monotonic(), accept_shorter=self._accept_shorter, check_total=check_total,
        )  # fmt: skip
        try:
            await listing.runner.run()
        finally:
            await listing.close()
        position = listing.position
        # The next pass, or the next run, begins where this one ended.
        sync.taken, sync.per_page, sync.has_all_users = position.taken, position.per_page, position.ended
        sync.first_total, sync.total = position.first_total, position.total
        self._lowered = position.per_page if position.per_page < USERS_A_PAGE else None
        await self._raise_if_unserved(mx_health)
        if await self._has_listed_all():
            await self._compare(position)
            return True
        return self._goes_on(listing, ends_at)

    def _goes_on(self, sync_pass: "Listing | Checking", ends_at: float) -> bool:
        """Whether another pass is made, which asks again for the rows that failed."""
        if sync_pass.runner.drained and not sync_pass.advanced:
            raise SyncEnded(
                f"sync: MX lets none of our requests through now; {self._so_far}, and the next `reconnect sync` goes on from there"
            )
        return monotonic() < ends_at and not self._runtime.stopping.is_set()

    @property
    def _so_far(self) -> str:
        return f"{self._progress.done} of {self._progress.total} are done"

    async def _has_listed_all(self) -> bool:
        return self._sync.has_all_users and not await self._store.to_read(1, after=0)

    async def _compare(self, position: Position) -> None:
        """All users are listed: find the members that no list has, or raise if they are too many to be believed."""
        store, sync = self._store, self._sync
        listed = await store.listed_users()
        if shrank(position.total or 0, listed) and not self._accept_shorter:
            raise ListLies(f"it says that it has {position.total} entries, and holds {listed} users")
        await store.add_members_of_unlisted_users(sync, seconds=self._lease, now=self._runtime.clock.now())
        missing, known = await store.missing(), await store.known_members()
        if shrank(known, known - missing) and not self._accept_shorter:
            raise ListLies(f"{missing} of {known} members are on no list: more than a tenth")
        await store.go_to(sync, CHECKING, seconds=self._lease, now=self._runtime.clock.now())

    async def _check(self, ends_at: float) -> bool:
        """One pass over the members to be checked. Returns whether to continue."""
        sync, store, progress = self._sync, self._store, self._progress
        progress.phase, progress.done, progress.total = CHECKING, 0, await store.missing()
        mx_health = MxHealth()
        checking = Checking(self._runtime, store, sync, mx_health, progress, seconds=ends_at - monotonic())
        await checking.runner.run()
        await self._raise_if_unserved(mx_health)
        if not await store.to_check(1, after=0):
            await store.end(sync, FINISHED, counts_in_words(sync.found), self._runtime.clock.now())
            log.info("synced", **{word: count for word, count in sync.found.items() if count})
            return True
        return self._goes_on(checking, ends_at)

    async def _raise_if_unserved(self, mx_health: MxHealth) -> None:
        """Raise if MX does not serve us."""
        if not mx_health.code:
            return
        if mx_health.refused:
            breaker = Breaker(self._runtime.database.store(PauseStore), MX)
            breaker.refused(mx_health.code)
            await breaker.settle(self._runtime.clock.now(), probe=False)
        raise SyncEnded(
            f"sync: MX does not serve us now ({mx_health.code}); {self._so_far}, and the next `reconnect sync` goes on from there"
        )


def runs_here(runtime: Runtime, worker: str | None) -> bool | None:
    """Whether this worker id is of a running process of this machine; ``None``: it is of another machine, so that is unknown."""
    host, _, pid = (worker or "").rpartition(":")
    if host != runtime.worker_id.rpartition(":")[0] or not pid.isdecimal():
        return None
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except OSError:  # it belongs to another user
        return True
    return True


async def is_due(runtime: Runtime, now: datetime) -> bool:
    """Whether a new sync is due by ``SYNC_SCHEDULE``: one of its moments has passed since the last sync began, however that ended.

    A failed sync is not repeated before the next moment. One that began in the future is ignored, or none would be due until then.
    """
    line = runtime.settings.sync_schedule
    if line is None:
        return False
    last_sync = await runtime.database.store(SyncStore).last()
    if last_sync is None or last_sync.started_at > now + _AHEAD:
        return True
    slots = slots_after(line, last_sync.started_at)
    return bool(slots) and slots[0] <= now


async def is_wanted(runtime: Runtime, now: datetime) -> bool:
    """Whether there is work for a task: an unfinished sync that no process works on, or a new one that is due."""
    return await runtime.database.store(SyncStore).is_waiting() or await is_due(runtime, now)


async def sync(runtime: Runtime, *, ends_at: float | None = None) -> str:
    """One run of the stage: continue the unfinished sync, or begin one if one is due. Returns ``""`` if there is nothing to do.

    Any task of the stage begins a due sync. So it begins even if beat's own message is lost, or comes during a pause.
    ``ends_at``: see :meth:`Runtime.run_ends_at`.
    """
    ends_at = runtime.run_ends_at() if ends_at is None else ends_at
    now = await runtime.set_clock()
    paused_scopes = {pause.scope for pause in await runtime.database.store(PauseStore).all()}
    if paused_scopes & {EVERYTHING, MX}:
        return "paused"
    try:
        result = await sync_all(runtime, begin=await is_due(runtime, now), seconds=ends_at - monotonic())
    except Busy as busy:
        return f"{busy.worker} is at it"
    except SyncEnded as ended:
        log.warning("sync_ended", why=str(ended))
        return str(ended)
    if result is None:
        return ""
    if result.state != FINISHED and not runtime.stopping.is_set():
        await runtime.wake("sync", 1)
    return f"{result.state}: {result.summary}"

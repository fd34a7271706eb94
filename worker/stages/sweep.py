"""Sweep: find broken members, recover the rows of dead workers, and wake as many workers as there is work for.

1. Recover reconnections and notifications whose lease ran out.
2. Move reckoned dates that have passed, and continue to reckon new ones, if that is under way. List the members for which a moment has
   passed: their token expired, or their ``reopen_at`` came.
3. Visit every listed member, because it changed or fell due: close its reconnection if it is no longer broken, open one if it is broken
   and has none, and open a notice if its token expires soon.
4. Continue a reconciliation, if one is under way: a few pages of all members, once a day and after a change of settings.
5. Make reminders due, and close as `exhausted` the reconnections past their last reminder. Make a reconnection due if MX failed a click
   on it an hour ago, and served no click since. Delete the URIs of clicks that are over.
6. Hold the messages of an institution whose members break in a burst, and release them when the burst is over.
7. Wake the workers.
8. Count the days that are over, and delete what is older than ``RETENTION_DAYS`` (``retention.py``).

Every step may run twice, or in two sweeps at once. What one sweep misses, the next one finds.
"""

from datetime import datetime
from math import ceil

import structlog

from worker.policy.outage import LEAST_BREAKS, LEAST_HISTORY, is_burst
from worker.policy.states import Mover, NotificationState
from worker.runtime import Runtime
from worker.stages.next_steps import steps_after
from worker.stages.retention import retain
from worker.stages.sync import is_wanted
from worker.store.events.queue import EventStore
from worker.store.outages import OutageStore
from worker.store.pauses import EVENTS, MX, PauseStore, outage_scope
from worker.store.reckoning import ReckoningStore
from worker.store.sweeping import SweepReport, SweepStore
from worker.store.transactions.deliver import DeliverStore
from worker.store.transactions.deliver_results import DeliveryResult
from worker.store.transactions.fetch import FetchStore
from worker.store.transactions.hints import HintStore
from worker.store.transactions.verify import VerifyStore

log = structlog.get_logger()

#: One sweep puts at most this many tasks of one stage into its queue. Each task is a run that works through thousands of rows. If there
#: are more workers than that, the next sweep wakes more of them.
MOST_WOKEN = 8
#: At most this many tasks that post events: each keeps up to 20 requests to the application's endpoint in flight.
MOST_POSTING = 2


async def sweep(runtime: Runtime, *, slot: datetime | None = None) -> SweepReport | None:
    """One sweep; ``None`` if ``slot`` (beat's minute) was swept already."""
    settings = runtime.settings
    now = await runtime.set_clock()
    store = runtime.database.store(
        SweepStore, statuses=settings.reconnect_statuses, notice_days=settings.expiry_notice_days
    )
    sweep_id = await store.begin(slot, now)
    if sweep_id is None:
        return None
    report = SweepReport()
    report.recovered = await recover(runtime, store)
    await runtime.database.store(ReckoningStore).reckon(now)
    await store.begin_visits(now)
    visits = await store.visit_changed(now, grace=settings.notify_after)
    visits += await store.reconcile(now, grace=settings.notify_after)
    report.opened, report.closed = visits.opened, visits.closed
    report.reminded, report.exhausted = await store.remind(now, messages=len(settings.reminder_days))
    report.reminded += await store.tell_owed(now)
    await store.forget_clicked(now)
    await watch_outages(runtime, now)
    report.woken = await wake(runtime)
    await store.finish(sweep_id, report, runtime.clock.now())
    if report.exhausted:
        log.warning(
            "given_up",
            reconnections=report.exhausted,
            why="the last reminder went unanswered",
            what_to_do="`reconnect retry --exhausted` requeues them",
        )
    await retain(runtime, now)
    if report.did_something:
        log.info("swept", **{name: value for name, value in vars(report).items() if value})
    return report


async def recover(runtime: Runtime, store: SweepStore) -> int:
    """Recover the rows that dead workers had leased; returns how many."""
    settings = runtime.settings
    recovered = await store.recover_leases()
    recovered += await store.recover_unsent(resend=settings.ambiguous_sends == "resend")
    deliveries = runtime.database.store(DeliverStore)
    while stale := await deliveries.take_over_abandoned(
        worker_id=runtime.worker_id, lease_seconds=settings.lease_seconds, n=settings.batch_size
    ):
        now = runtime.clock.now()
        unknown = []
        for notification in stale:
            waiting = [item for item in notification.items if item.waiting]
            next_steps = steps_after(waiting, now=now, settings=settings, told=True, certain=False)
            unknown.append(
                DeliveryResult(
                    notification=notification,
                    state=NotificationState.UNKNOWN,
                    outcome="worker_died",
                    attempts=notification.attempts,
                    next_steps=next_steps,
                )
            )
        recovered += await deliveries.settle(unknown, now=now, by=Mover.SWEEP)
    if poison := await store.set_aside(runtime.clock.now()):
        log.error("set_aside", rows=poison, why="their workers died with them", what_to_do="see `reconnect status`")
    return recovered


async def watch_outages(runtime: Runtime, now: datetime) -> None:
    """Hold institutions whose members break far more often than usual, until an hour after the burst was last seen."""
    outages, pauses = runtime.database.store(OutageStore), runtime.database.store(PauseStore)
    for burst in await outages.busy_institutions(now, at_least=LEAST_BREAKS):
        normal = burst.per_window_normally
        if burst.history < LEAST_HISTORY or not is_burst(burst.breaks, per_window_normally=normal):
            continue
        reason = f"{burst.breaks} of its members broke within an hour, its normal is {normal:.1f}"
        if await outages.hold(burst.institution_code, reason, now=now):
            log.error("outage_suspected", institution=burst.institution_code, why=reason, what_to_do="see the runbook")
    for pause in await pauses.all():
        if pause.is_outage and pause.probe_at is not None and pause.probe_at <= now:
            code = pause.scope.removeprefix(outage_scope(""))
            log.warning("outage_over", institution=code, held=await outages.release(code, now))


async def wake(runtime: Runtime) -> dict[str, int]:
    """Put a task into a stage's queue for each batch that is due, at most :data:`MOST_WOKEN` (events: :data:`MOST_POSTING`). Returns how many tasks each stage got."""
    now = runtime.clock.now()
    database = runtime.database
    at_most = MOST_WOKEN * runtime.settings.batch_size
    due = {
        "fetch": await database.store(FetchStore).due(now, at_most=at_most),
        "deliver": await database.store(DeliverStore).due(now, at_most=at_most),
        "verify": await database.store(VerifyStore).due(now, at_most=at_most),
        # Hints; and a sync that is due, or unfinished without a process that works on it.
        "sync": await database.store(HintStore).due(now, at_most=at_most) + await is_wanted(runtime, now),
    }
    if runtime.endpoint is not None:
        due["events"] = await database.store(EventStore).due(now, at_most=MOST_POSTING * runtime.settings.batch_size)
    for pause in await database.store(PauseStore).all():
        if pause.probe_at is not None and pause.probe_at <= now and not pause.is_outage:
            stage = {MX: "fetch", EVENTS: "events"}.get(pause.scope, "deliver")
            if stage not in due:
                continue  # events are off
            due[stage] = max(due[stage], 1)  # one task has to take the probe
    woken = {}
    for stage, rows in due.items():
        tasks = min(ceil(rows / runtime.settings.batch_size), MOST_WOKEN)
        if tasks and (tasks_added := await runtime.wake(stage, tasks)):
            woken[stage] = tasks_added
    return woken

"""`sweep`, `pause`, `resume`, `retry`: start, stop and repeat work."""

import asyncio
import time
from dataclasses import asdict
from typing import Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from worker.channels import registry
from worker.cli.meaning import check_member, did_you_mean, nearest_guid
from worker.cli.session import AsJson, aside, out, print_json, run
from worker.errors import UsageError, WorkerError
from worker.intake.cells import LONGEST
from worker.runtime import Runtime
from worker.stages.sweep import sweep as sweep_once
from worker.stages.sweep import wake
from worker.store.outages import OutageStore
from worker.store.pauses import EVENTS, EVERYTHING, MX, PauseStore, channel_scope, delivery_scope, outage_scope
from worker.store.queries.lookup import LookupStore
from worker.store.queries.reports import ReportStore
from worker.store.queries.standing import StandingStore
from worker.store.sweeping import SweepReport, SweepStore
from worker.store.transactions.retry import RetryStore

#: At most this many names are listed in one line.
_NAMED = 10
#: After this time without progress, `--wait` says why (seconds).
PATIENCE = 10.0
#: After this time without progress, workers are woken again for work that fell due after the sweep (seconds).
WAKE_AGAIN = 2.0


def add_to(app: typer.Typer) -> None:
    app.command()(sweep)
    app.command()(pause)
    app.command()(resume)
    app.command()(retry)


def sweep(
    *,
    dry_run: bool = typer.Option(False, "--dry-run", help="Show what it would do, and do nothing."),
    wait: bool = typer.Option(False, "--wait", help="Show a progress bar until everything that is due is done."),
    timeout: float = typer.Option(0, "--timeout", help="With --wait: give up after this many seconds; 0 for never."),
    as_json: bool = AsJson,
) -> None:
    """One sweep, for cron."""
    if dry_run:
        plan = run(_planned)
        if as_json:
            print_json(plan)
        else:
            _print_plan(plan)
        return

    async def job(runtime: Runtime) -> SweepReport:
        report = await sweep_once(runtime)
        if wait:
            await follow(runtime, give_up_after=timeout)
        return report or SweepReport()

    report = run(job)
    if as_json:
        print_json(asdict(report))
    else:
        out.print(f"Swept: {report.summary}.")


async def _planned(runtime: Runtime) -> dict[str, Any]:
    now = await runtime.set_clock()
    settings = runtime.settings
    store = runtime.database.store(
        SweepStore, statuses=settings.reconnect_statuses, notice_days=settings.expiry_notice_days
    )
    return {
        "would_open": await store.would_open(now),
        "backlog": (await StandingStore(runtime.database).read(now)).backlog,
        "pauses": [pause.scope for pause in await PauseStore(runtime.database).all()],
    }


def _print_plan(plan: dict[str, Any]) -> None:
    total = sum(plan["would_open"].values())
    reasons = ", ".join(f"{reason} {count}" for reason, count in plan["would_open"].items() if count)
    out.print(f"Would open {total} reconnections" + (f" ({reasons})." if reasons else "."))
    backlog = plan["backlog"]
    out.print(
        f"Would recover {backlog['leases_expired']} expired leases and wake workers for {backlog['due_now']} due "
        f"reconnections and {backlog['to_deliver_now']} due notifications."
    )
    if plan["pauses"]:
        out.print(f"Paused: {', '.join(plan['pauses'])}.")


async def follow(runtime: Runtime, *, give_up_after: float = 0, bar: bool = True) -> None:
    """Wait until everything that is due is done, with a progress bar. Work that is due later does not count.

    Raises :class:`WorkerError` if nothing moves because of a pause, or after ``give_up_after`` seconds.
    """
    reports, pauses = ReportStore(runtime.database), PauseStore(runtime.database)
    since = await runtime.set_clock()
    began = moved_at = woken_at = time.monotonic()
    before: dict[str, int] = {}
    total, warned = 0, False
    columns = TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=aside, disable=not bar) as progress:
        task = progress.add_task("", total=None)
        while True:
            work = await reports.remaining_work(since, runtime.clock.now())
            # Each reconnection counts two steps: it is fetched, and then its message is delivered.
            remaining = 2 * work["to_fetch"] + work["to_deliver"]
            total = max(total, remaining)
            description = f"to fetch {work['to_fetch']}, to deliver {work['to_deliver']}"
            progress.update(task, total=total, completed=total - remaining, description=description)
            if not remaining:
                return
            now = time.monotonic()
            if work != before:
                before, moved_at, woken_at = work, now, now
            elif now - woken_at > WAKE_AGAIN:
                woken_at = now
                await wake(runtime)
            if now - moved_at > PATIENCE:
                if paused := await pauses.all():
                    raise WorkerError(f"work is left, but paused: {paused[0].scope}: {paused[0].reason}")
                if not warned:
                    warned = True
                    aside.print(
                        f"Nothing moved for {PATIENCE:.0f} s. Is a worker running? `celery -A worker.app worker`"
                    )
            if give_up_after and now - began > give_up_after:
                raise WorkerError(
                    f"work is left after {give_up_after:.0f} s: {description}. The workers go on without this command"
                )
            await asyncio.sleep(0.2)


def pause(
    what: str = typer.Argument("everything", metavar="[everything | institution:CODE | channel:KIND]"),
    reason: str = typer.Option("paused by hand", "--reason", help="What `status` will say."),
) -> None:
    """Pause everything, one institution or one channel until `resume`."""
    scope = _scope(what)

    async def job(runtime: Runtime) -> bool:
        kind, _, name = scope.partition(":")
        lookup = LookupStore(runtime.database)
        if kind == "institution" and not await lookup.has_institution(name):
            known = [f"{kind}:{code}" for code in await lookup.institutions()]
            raise WorkerError(f"pause: no member is of {scope}, so nothing was paused{did_you_mean(scope, known)}")
        if kind == "channel" and name not in runtime.channels:
            aside.print(f"{name} is not configured here: the pause matters only to workers with other settings.")
        return await PauseStore(runtime.database).set(scope, reason[:200], now=await runtime.set_clock())

    out.print(f"Paused {scope}." if run(job) else f"{scope} was paused already; its reason is the new one.")


def resume(
    what: str = typer.Argument(
        "everything", metavar="[everything | institution:CODE | channel:KIND | mx | events | outage:CODE]"
    ),
) -> None:
    """End a pause. `mx`, `events` and `delivery:KIND` end a breaker, `outage:CODE` releases the messages that an outage held."""
    own_prefixes = (delivery_scope(""), outage_scope(""))
    scope = what if what in {MX, EVENTS} or what.startswith(own_prefixes) else _scope(what)

    async def job(runtime: Runtime) -> str:
        pauses, now = PauseStore(runtime.database), await runtime.set_clock()
        paused = {pause.scope: pause for pause in await pauses.all()}
        if scope not in paused:
            others = f"; paused are {', '.join(list(paused)[:_NAMED])}" if paused else ", nor is anything else"
            raise WorkerError(f"resume: {scope} is not paused{did_you_mean(scope, paused) or others}")
        if paused[scope].is_outage:
            code = scope.removeprefix(outage_scope(""))
            released = await runtime.database.store(OutageStore).release(code, now, false_alarm=True)
            note = f"; {released:,} reconnections are due again, spread over an hour; for an hour no burst holds the institution"
        else:
            await pauses.lift(scope)
            note = ""
        await wake(runtime)
        return note

    out.print(f"Resumed {scope}{run(job)}.")


def _scope(what: str) -> str:
    kinds = registry.names()
    kind, _, code = what.partition(":")
    if kind == "institution" and 0 < len(code.strip()) <= LONGEST["institution_code"]:
        return f"{kind}:{code.strip()}"  # a code may have spaces inside, but none at its ends
    if what == EVERYTHING or what in map(channel_scope, kinds):
        return what
    if what in kinds:  # `pause messenger` means the channel
        return channel_scope(what)
    words = [EVERYTHING, "institution:", *map(channel_scope, kinds)]
    raise UsageError(
        f"{what[:60]!r} is none of everything, institution:CODE, {', '.join(words[2:])}{did_you_mean(what, words)}"
    )


def retry(
    members: list[str] = typer.Argument(None, metavar="[MBR-…]...", help="These members alone."),
    *,
    exhausted: bool = typer.Option(False, "--exhausted", help="Every exhausted reconnection."),
    quarantined: bool = typer.Option(False, "--quarantined", help="Every quarantined reconnection."),
    unsupported: bool = typer.Option(False, "--unsupported", help="Every unsupported reconnection."),
    unknown: bool = typer.Option(
        False, "--unknown", help="Every notification whose answer was lost: it may arrive twice."
    ),
    as_json: bool = AsJson,
) -> None:
    """Requeue work that was given up; its attempts start at 0."""
    chosen = {"exhausted": exhausted, "quarantined": quarantined, "unsupported": unsupported}
    states = [state for state, wanted in chosen.items() if wanted]
    if members and not states:
        states = list(chosen)
    if not states and not unknown:
        raise UsageError("say what: a member's GUID, --exhausted, --quarantined, --unsupported or --unknown")

    for guid in members or ():
        check_member(guid)

    async def job(runtime: Runtime) -> tuple[dict[str, int], list[str]]:
        now = await runtime.set_clock()
        store = RetryStore(runtime.database)
        lookup = LookupStore(runtime.database)
        before = await lookup.states(members or ())
        # Named members are requeued one by one, so that the error can name each that was not requeued.
        by_member = {guid: await store.reconnections(states, [guid], now=now) for guid in members or () if states}
        count = (
            sum(by_member.values()) if members else (await store.reconnections(states, None, now=now) if states else 0)
        )
        requeued = {
            "reconnections": count,
            "notifications": await store.unknown(members or None, now=now) if unknown else 0,
        }
        requeued_guids = {guid for guid, number in by_member.items() if number} | await lookup.requeued(
            members or (), now
        )
        await wake(runtime)
        not_requeued = [
            f"{guid} is {before[guid] or 'not broken' if guid in before else 'not in the database'}"
            + ("" if guid in before else await nearest_guid(runtime.database, guid))
            for guid in dict.fromkeys(members or ())
            if guid not in requeued_guids
        ]
        return requeued, not_requeued

    requeued, not_requeued = run(job)
    if as_json:
        print_json(requeued)
    else:
        out.print(f"Requeued {requeued['reconnections']} reconnections and {requeued['notifications']} notifications.")
    if not_requeued:
        raise WorkerError(
            f"retry: not requeued: {'; '.join(not_requeued[:_NAMED])}" + (" …" if len(not_requeued) > _NAMED else "")
        )
    if not any(requeued.values()):
        raise WorkerError(
            f"retry: nothing is {' or '.join([*states, *(['unknown'] if unknown else [])])}, so nothing was requeued"
        )

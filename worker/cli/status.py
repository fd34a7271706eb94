"""`status`: the work that is open, and what happens next."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import msgspec
import typer

from worker.cli.events import standing_line
from worker.cli.funnel import EXPIRING_WEEKS, counted, expiring_table, funnel_table, waiting_table
from worker.cli.reporting import came_back, failed_line, links_pressed, unanswered_line
from worker.cli.session import AsJson, out, print_json, run, styled, when
from worker.policy.selection import Reason
from worker.policy.states import ReconnectionState
from worker.runtime import Runtime
from worker.schedules import slots_after
from worker.store.events.queue import EventStanding, EventStore
from worker.store.institutions import InstitutionStore
from worker.store.pauses import PauseStore
from worker.store.queries.presses import Presses, PressStore
from worker.store.queries.reports import ReportStore
from worker.store.queries.returns import Returns, ReturnStore
from worker.store.queries.standing import StandingStore
from worker.store.queries.unreadable import NotUnderstood, UnreadableStore
from worker.store.queries.webhooks import Webhooks, WebhookStore
from worker.store.syncs.store import SyncStore
from worker.store.syncs.sync import Sync


def add_to(app: typer.Typer) -> None:
    app.command()(status)


def status(*, as_json: bool = AsJson) -> None:  # noqa: C901 - one line after the other
    """The funnel and the backlog."""

    report = run(overview)
    if as_json:
        print_json(report)
        return
    for pause in report["pauses"]:
        probe = f"; tried again at {when(pause['probe_at'])}" if pause["probe_at"] else "; until `reconnect resume`"
        line = f" {pause['scope']} since {when(pause['since'])}: {pause['reason']}{probe}"
        out.print(styled(("Paused", "bold red"), line))
    if report["overdue"]:
        out.print(styled(("Overdue:", "bold red"), f" {report['overdue']}."))
    out.print(funnel_table(report))
    if report["waiting"]:
        out.print(waiting_table(report["waiting"], report["at"]))
    backlog = report["backlog"]
    out.print(
        f"Now: {backlog['due_now']} due, {backlog['leased']} being fetched, {backlog['to_deliver_now']} to deliver, "
        f"{backlog['sending']} being sent. Later: {backlog['due_later']} reconnections ({backlog['retrying']} of them "
        f"retries), {backlog['to_deliver_later']} notifications; the next is due {when(backlog['next_due_at'])}."
    )
    if notices := report["open_by_reason"].get(str(Reason.EXPIRES_SOON)):
        out.print(f"Of the open reconnections, {notices} are notices ahead of an expiry: their members are well.")
    if report["expiring"]:
        out.print(expiring_table(report["expiring"]))
    out.print(came_back(Returns(**report["returns"])))
    for line in _of_clicks_and_events(report):
        out.print(line)
    for line in _given_up(report["outcomes"]):
        out.print(line)
    if report["not_understood"]:
        kinds = "; ".join(str(NotUnderstood(**kind)) for kind in report["not_understood"])
        out.print(f"Not understood of what your application wrote: {kinds}.")
    sweep = report["last_sweep"]
    next_sweep = f" The next is due {when(report['next_sweep_at'])}; what falls due waits for it, unless a worker takes it before."
    if sweep is None:
        out.print(f"No sweep yet: run `reconnect sweep`, or start beat.{next_sweep}")
    else:
        out.print(
            f"Last sweep {when(sweep['started_at'])}: opened {sweep['opened']}, recovered {sweep['recovered']}, closed "
            f"{sweep['closed']}, reminded {sweep['reminded']}, exhausted {sweep['exhausted']}.{next_sweep}"
        )
    _print_sync(report["sync"])
    _print_webhooks(report["webhooks"])


async def overview(runtime: Runtime) -> dict[str, Any]:
    """Everything that `status` shows."""
    now = await runtime.set_clock()
    reports = ReportStore(runtime.database)
    overdue = await reports.overdue_sweeps(runtime.settings.sweep_schedule)
    standing = await StandingStore(runtime.database).read(now)
    return {
        "at": now,
        **counted(standing),
        "backlog": standing.backlog,
        "pauses": [
            {"scope": p.scope, "reason": p.reason, "since": p.since, "probe_at": p.probe_at}
            for p in await PauseStore(runtime.database).all()
        ],
        "open_by_reason": standing.open_by_reason,
        "expiring": [
            msgspec.structs.asdict(week)
            for week in await InstitutionStore(runtime.database).expiring(now, weeks=EXPIRING_WEEKS)
        ],
        "returns": asdict(await ReturnStore(runtime.database).lately(now)),
        "clicks": asdict(await PressStore(runtime.database).lately(now)),
        "events": await _events(runtime),
        "last_sweep": await reports.last_sweep(),
        "next_sweep_at": next(iter(slots_after(runtime.settings.sweep_schedule, now)), None),
        "overdue": overdue.text if overdue else None,
        "sync": synced(await SyncStore(runtime.database).last()),
        "webhooks": {
            "configured": runtime.settings.mx_webhook_auth is not None,
            **asdict(await WebhookStore(runtime.database).lately()),
        },
        "not_understood": [asdict(kind) for kind in await UnreadableStore(runtime.database).counts()],
    }


def _print_webhooks(fields: dict[str, Any]) -> None:
    if fields["last_received_at"] is None:
        if fields["configured"]:
            out.print("Webhooks of MX: none came within two days; see `reconnect doctor`.")
        return
    webhooks = Webhooks(**{name: value for name, value in fields.items() if name != "configured"})
    since = f" (since {when(webhooks.waiting_since)})" if webhooks.waiting_since else ""
    unused = "".join(f", {count} not used: {word}" for word, count in webhooks.not_used.items())
    out.print(
        f"Last webhook of MX {when(webhooks.last_received_at)}: {webhooks.shown_waiting} to be read{since}{unused}."
    )


def _print_sync(sync: dict[str, Any] | None) -> None:
    if sync is not None:
        out.print(f"Last sync {when(sync['started_at'])}: {sync['says']}.")


def synced(sync: Sync | None) -> dict[str, Any] | None:
    """The last sync, as `status` and `explain` show it."""
    if sync is None:
        return None
    return {
        "phase": sync.phase,
        "started_at": sync.started_at,
        "finished_at": sync.finished_at,
        "says": sync.says.rstrip("."),
        "found": {word: count for word, count in sync.found.items() if count},
    }


def _of_clicks_and_events(report: dict[str, Any]) -> Iterator[str]:
    if pressed := links_pressed(Presses(**report["clicks"])):
        yield pressed
    if report["events"] is not None:
        yield standing_line(EventStanding(**report["events"]))


async def _events(runtime: Runtime) -> dict[str, Any] | None:
    """The state of the events to the application; ``None`` if they are off."""
    if runtime.endpoint is None:
        return None
    return msgspec.structs.asdict(await runtime.database.store(EventStore).standing())


def _given_up(outcomes: Sequence[dict[str, Any]]) -> Iterator[str]:
    """The lines about reconnections that ended ``exhausted``."""
    counts = {item["outcome"]: item["count"] for item in outcomes if item["state"] == ReconnectionState.EXHAUSTED}
    if unanswered := counts.pop("reminders_exhausted", 0):
        yield f"{unanswered_line(unanswered)}."
    if failed := sum(counts.values()):
        yield f"{failed_line(failed)}."

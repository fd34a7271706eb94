"""`status` and `explain`: what is being done, why, and what comes next."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any

import msgspec
import typer

from worker.cli.events import standing_line
from worker.cli.funnel import EXPIRING_WEEKS, counted, expiring_table, funnel_table, waiting_table
from worker.cli.meaning import check_member, nearest_guid
from worker.cli.reporting import came_back, given_up, links_pressed, never_told, span
from worker.cli.session import AsJson, out, print_json, run, styled, when
from worker.errors import UsageError, WorkerError
from worker.mx.identifiers import is_user_guid
from worker.names import shown
from worker.policy.moments import NEVER
from worker.policy.notices import is_near
from worker.policy.selection import MemberFacts, Reason, classify
from worker.policy.states import ReconnectionState
from worker.runtime import Runtime
from worker.schedules import slots_after
from worker.settings import Settings
from worker.stages.explaining import Explainer
from worker.store.events.queue import EventStanding, EventStore
from worker.store.fetching import FetchStore
from worker.store.institutions import InstitutionStore
from worker.store.pauses import PauseStore
from worker.store.queries.lookup import LookupStore
from worker.store.queries.presses import Presses, PressStore
from worker.store.queries.reports import ReportStore
from worker.store.queries.returns import Returns, ReturnStore
from worker.store.queries.standing import StandingStore
from worker.store.queries.unreadable import NotUnderstood, UnreadableStore
from worker.store.queries.webhooks import Webhooks, WebhookStore
from worker.store.sweeping import SweepStore
from worker.store.syncs.store import SyncStore
from worker.store.syncs.sync import Sync


def add_to(app: typer.Typer) -> None:
    app.command()(status)
    app.command()(explain)


def status(*, as_json: bool = AsJson) -> None:  # noqa: C901 - one line after the other
    """The funnel and the backlog."""

    found = run(overview)
    if as_json:
        print_json(found)
        return
    for pause in found["pauses"]:
        probe = f"; tried again at {when(pause['probe_at'])}" if pause["probe_at"] else "; until `reconnect resume`"
        says = f" {pause['scope']} since {when(pause['since'])}: {pause['reason']}{probe}"
        out.print(styled(("Paused", "bold red"), says))
    if found["overdue"]:
        out.print(styled(("Overdue:", "bold red"), f" {found['overdue']}."))
    out.print(funnel_table(found))
    if found["waiting"]:
        out.print(waiting_table(found["waiting"], found["at"]))
    backlog = found["backlog"]
    out.print(
        f"Now: {backlog['due_now']} due, {backlog['leased']} being fetched, {backlog['to_deliver_now']} to deliver, "
        f"{backlog['sending']} being sent. Later: {backlog['due_later']} reconnections ({backlog['retrying']} of them "
        f"retries), {backlog['to_deliver_later']} notifications; the next is due {when(backlog['next_due_at'])}."
    )
    if ahead := found["open_by_reason"].get(str(Reason.EXPIRES_SOON)):
        out.print(f"Of the open reconnections, {ahead} are notices ahead of an expiry: their members are well.")
    if found["expiring"]:
        out.print(expiring_table(found["expiring"]))
    out.print(came_back(Returns(**found["returns"])))
    for line in _of_clicks_and_events(found):
        out.print(line)
    for line in _given_up(found["outcomes"]):
        out.print(line)
    if found["not_understood"]:
        kinds = "; ".join(str(NotUnderstood(**kind)) for kind in found["not_understood"])
        out.print(f"Not understood of what your application wrote: {kinds}.")
    sweep = found["last_sweep"]
    following = f" Nothing starts between sweeps; the next is due {when(found['next_sweep_at'])}."
    if sweep is None:
        out.print(f"No sweep yet: run `reconnect sweep`, or start beat.{following}")
    else:
        out.print(
            f"Last sweep {when(sweep['started_at'])}: opened {sweep['opened']}, recovered {sweep['recovered']}, closed "
            f"{sweep['closed']}, reminded {sweep['reminded']}, exhausted {sweep['exhausted']}.{following}"
        )
    _print_sync(found["sync"])
    _print_webhooks(found["webhooks"])


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
        "sync": _synced(await SyncStore(runtime.database).last()),
        "webhooks": {
            "configured": runtime.settings.mx_webhook_auth is not None,
            **asdict(await WebhookStore(runtime.database).lately()),
        },
        "not_understood": [asdict(kind) for kind in await UnreadableStore(runtime.database).counts()],
    }


def _print_webhooks(came: dict[str, Any]) -> None:
    if came["last_received_at"] is None:
        if came["configured"]:
            out.print("Webhooks of MX: none came within two days; see `reconnect doctor`.")
        return
    lately = Webhooks(**{name: value for name, value in came.items() if name != "configured"})
    since = f" (since {when(lately.waiting_since)})" if lately.waiting_since else ""
    unused = "".join(f", {count} not used: {word}" for word, count in lately.not_used.items())
    out.print(f"Last webhook of MX {when(lately.last_received_at)}: {lately.shown_waiting} to be read{since}{unused}.")


def _print_sync(sync: dict[str, Any] | None) -> None:
    if sync is not None:
        out.print(f"Last sync {when(sync['started_at'])}: {sync['says']}.")


def _synced(sync: Sync | None) -> dict[str, Any] | None:
    """The last sync, for `status`."""
    if sync is None:
        return None
    return {
        "phase": sync.phase,
        "started_at": sync.started_at,
        "finished_at": sync.finished_at,
        "says": sync.says.rstrip("."),
        "found": {word: count for word, count in sync.found.items() if count},
    }


def _of_clicks_and_events(found: dict[str, Any]) -> Iterator[str]:
    if pressed := links_pressed(Presses(**found["clicks"])):
        yield pressed
    if found["events"] is not None:
        yield standing_line(EventStanding(**found["events"]))


async def _events(runtime: Runtime) -> dict[str, Any] | None:
    """How the events to the application stand; ``None``: they are off."""
    if runtime.endpoint is None:
        return None
    return msgspec.structs.asdict(await runtime.database.store(EventStore).standing())


def _given_up(outcomes: Sequence[dict[str, Any]]) -> Iterator[str]:
    """The lines about reconnections that ended ``exhausted``."""
    counts = {item["outcome"]: item["count"] for item in outcomes if item["state"] == ReconnectionState.EXHAUSTED}
    if unanswered := counts.pop("reminders_exhausted", 0):
        yield f"{given_up(unanswered)}."
    if failed := sum(counts.values()):
        yield f"{never_told(failed)}."


def explain(guid: str = typer.Argument(..., metavar="MBR-…"), *, as_json: bool = AsJson) -> None:
    """Why this member was picked or skipped, its history, what comes next."""
    if not is_user_guid(guid):
        check_member(guid)
    found = run(lambda runtime: explanation(runtime, guid))
    if as_json:
        print_json(found)
        return
    out.print(styled((guid, "bold"), f" {found['institution']}"))
    out.print(f"  Rule: {found['verdict']}.")
    if found["expiry"]:
        out.print(f"  Expiry: {found['expiry']}.")
    out.print(f"  User: {found['contact']}.")
    for kind in found["not_understood"]:
        out.print(f"  Not understood: {kind['column']} holds {kind['what']} ({kind['effect']}).")
    for reconnection in found["reconnections"]:
        out.print(
            f"  Reconnection {reconnection['id']}: {reconnection['state']}, opened {when(reconnection['opened_at'])} ({reconnection['reason']})"
        )
        for at, text in reconnection["history"]:
            out.print(f"    {when(at)}  {text}")
    for at, text in found["webhooks"]:
        out.print(f"  Webhook of MX: {when(at)}  {text}")
    for hold in found["holds"]:
        out.print(f"  Held: {hold['says']}.")
    out.print(f"  Next: {found['next']}.")


async def explanation(runtime: Runtime, guid: str) -> dict[str, Any]:
    """Everything that `explain` shows about a member; raises :class:`WorkerError` if there is no such member."""
    now = await runtime.set_clock()
    found = None if is_user_guid(guid) else await ReportStore(runtime.database).member(guid)
    members = [] if found else await LookupStore(runtime.database).members_of(guid)
    if members or is_user_guid(guid):
        known = f"its members are {', '.join(members)}" if members else "no member of it is in the database"
        raise UsageError(f"{guid} is a user; say which member: {known}")
    if found is None:
        near = await nearest_guid(runtime.database, guid)
        raise WorkerError(f"{guid} is not in the database: import it, or let your application write it{near}")
    settings = runtime.settings
    pauses = await PauseStore(runtime.database).all()
    overdue = await ReportStore(runtime.database).overdue_sweeps(settings.sweep_schedule)
    explainer = Explainer(
        settings,
        configured=runtime.channels.keys(),
        pauses=pauses,
        overdue=overdue.text if overdue else None,
        now=now,
    )
    user_guid = (found["member"] or found["reconnections"][0])["user_guid"]
    span = max((cap.within for cap in settings.message_caps), default=timedelta(0))
    user = (await FetchStore(runtime.database).users({user_guid}, since=now - span))[user_guid]
    sweeps = SweepStore(runtime.database, statuses=settings.reconnect_statuses, notice_days=settings.expiry_notice_days)
    outlook = explainer.outlook(
        found["member"],
        found["reconnections"][0] if found["reconnections"] else None,
        user,
        would_open=await sweeps.would_open_for(guid, now),
    )
    return {
        **_member(found, settings, now),
        "webhooks": [(hint.at, hint.text) for hint in await WebhookStore(runtime.database).of_member(guid)],
        "contact": explainer.contact(user, refused_why=(found["user"] or {}).get("refused_why")),
        "sync": _synced(await SyncStore(runtime.database).last()),
        "not_understood": [asdict(kind) for kind in await UnreadableStore(runtime.database).of_user(user_guid)],
        "holds": [msgspec.structs.asdict(hold) for hold in outlook.holds],
        "next": outlook.next,
    }


def _member(found: dict[str, Any], settings: Settings, now: datetime) -> dict[str, Any]:
    member = found["member"]
    if member is None:
        selection, institution = "the application has deleted this member", ""
    else:
        facts = MemberFacts(**{name: member[name] for name in MemberFacts.__struct_fields__})
        selection = classify(facts, statuses=settings.reconnect_statuses, now=now).text
        days = settings.expiry_notice_days
        if is_near(facts, statuses=settings.reconnect_statuses, days=days, now=now):
            selection = f"picked for a notice: its token expires at {when(facts.token_expires_at)} (EXPIRY_NOTICE_DAYS)"
        institution = shown(member["institution_name"] or member["institution_code"] or "")
    reconnections = [
        {
            **{
                k: e[k]
                for k in ("id", "state", "reason", "broken_since", "opened_at", "closed_at", "attempts", "outcome")
            },
            "moved_to": e["moved_to"],
            "notified_at": e["notified_at"],
            "clicked_at": e["clicked_at"],
            "owed_at": e["owed_at"],
            "history": _history(e),
        }
        for e in found["reconnections"]
    ]
    return {
        "member_guid": member["member_guid"] if member else None,
        "institution": institution,
        "verdict": selection,
        "expiry": _expiry(member) if member else None,
        "reconnections": reconnections,
    }


def _expiry(member: dict[str, Any]) -> str | None:
    """Whose date its token's expiry is; ``None`` without a date."""
    date = member["token_expires_at"]
    if date is None or date == NEVER:
        return None
    if not member["is_reckoned"]:
        return f"{when(date)}, as your application wrote it"
    return (
        f"{when(date)}, reckoned from institutions.consent_days and a consent of {when(member['consent_from'])}; it only asks ahead, "
        "and a date that your application writes takes its place"
    )


def _history(reconnection: dict[str, Any]) -> list[tuple[datetime, str]]:
    of = "its token expires" if reconnection["reason"] == Reason.EXPIRES_SOON else "broken since"
    events = [(reconnection["opened_at"], f"opened; {of} {when(reconnection['broken_since'])}")]
    events += [(window["fetched_at"], "a fresh window was stored") for window in reconnection["windows"]]
    for message in reconnection["notifications"]:
        at = message["sent_at"] or message["created_at"]
        outcome = f" ({message['outcome']})" if message["outcome"] else ""
        events.append((at, f"message {message['step'] + 1} by {message['channel']}: {message['state']}{outcome}"))
    for press in reconnection["clicks"]:
        events.append((press["clicked_at"], f"its link's button was pressed: {press['outcome'] or 'under way'}"))
    if reconnection["outcome_at"]:
        events.append(
            (
                reconnection["outcome_at"],
                f"last outcome: {reconnection['outcome']}, attempts {reconnection['attempts']}",
            )
        )
    if reconnection["moved_to"]:
        events.append(
            (reconnection["outcome_at"] or reconnection["opened_at"], f"MX carries it on as {reconnection['moved_to']}")
        )
    if reconnection["closed_at"]:
        events.append((reconnection["closed_at"], f"ended as {reconnection['state']}{_how_long(reconnection)}"))
    return sorted(events, key=lambda event: event[0])


def _how_long(reconnection: dict[str, Any]) -> str:
    """For a reconnected member: how long it took, and how long after the newest message."""
    if reconnection["state"] != ReconnectionState.RECONNECTED:
        return ""
    notified_at, closed_at = reconnection["notified_at"], reconnection["closed_at"]
    since = f"{span(closed_at - notified_at)} after the newest message" if notified_at else "without a message"
    return f", {span(closed_at - reconnection['opened_at'])} after it was opened and {since}"

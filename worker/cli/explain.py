"""`explain`: why a member was picked or skipped, its history, and what happens next."""

from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any

import msgspec
import typer

from worker.cli.meaning import check_member, nearest_guid
from worker.cli.reporting import span
from worker.cli.session import AsJson, out, print_json, run, styled, when
from worker.cli.status import synced
from worker.display_names import shown
from worker.errors import UsageError, WorkerError
from worker.mx.identifiers import is_user_guid
from worker.policy.moments import NEVER
from worker.policy.notices import is_near
from worker.policy.selection import MemberFacts, Reason, classify
from worker.policy.states import ReconnectionState
from worker.runtime import Runtime
from worker.settings import Settings
from worker.stages.explain import Explainer
from worker.store.pauses import PauseStore
from worker.store.queries.lookup import LookupStore
from worker.store.queries.reports import ReportStore
from worker.store.queries.unreadable import UnreadableStore
from worker.store.queries.webhooks import WebhookStore
from worker.store.sweeping import SweepStore
from worker.store.syncs.store import SyncStore
from worker.store.transactions.fetch import FetchStore


def add_to(app: typer.Typer) -> None:
    app.command()(explain)


def explain(guid: str = typer.Argument(..., metavar="MBR-…"), *, as_json: bool = AsJson) -> None:
    """Why this member was picked or skipped, its history, what comes next."""
    if not is_user_guid(guid):
        check_member(guid)
    report = run(lambda runtime: explanation(runtime, guid))
    if as_json:
        print_json(report)
        return
    out.print(styled((guid, "bold"), f" {report['institution']}"))
    out.print(f"  Rule: {report['verdict']}.")
    if report["expiry"]:
        out.print(f"  Expiry: {report['expiry']}.")
    out.print(f"  User: {report['contact']}.")
    for kind in report["not_understood"]:
        out.print(f"  Not understood: {kind['column']} holds {kind['what']} ({kind['effect']}).")
    for reconnection in report["reconnections"]:
        out.print(
            f"  Reconnection {reconnection['id']}: {reconnection['state']}, opened {when(reconnection['opened_at'])} ({reconnection['reason']})"
        )
        for at, text in reconnection["history"]:
            out.print(f"    {when(at)}  {text}")
    for at, text in report["webhooks"]:
        out.print(f"  Webhook of MX: {when(at)}  {text}")
    for hold in report["holds"]:
        out.print(f"  Held: {hold['says']}.")
    out.print(f"  Next: {report['next']}.")


async def explanation(runtime: Runtime, guid: str) -> dict[str, Any]:
    """Everything that `explain` shows about a member; raises :class:`WorkerError` if there is no such member."""
    now = await runtime.set_clock()
    record = None if is_user_guid(guid) else await ReportStore(runtime.database).member(guid)
    members = [] if record else await LookupStore(runtime.database).members_of(guid)
    if members or is_user_guid(guid):
        known = f"its members are {', '.join(members)}" if members else "no member of it is in the database"
        raise UsageError(f"{guid} is a user; say which member: {known}")
    if record is None:
        suggestion = await nearest_guid(runtime.database, guid)
        raise WorkerError(f"{guid} is not in the database: import it, or let your application write it{suggestion}")
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
    user_guid = (record["member"] or record["reconnections"][0])["user_guid"]
    longest_cap = max((cap.within for cap in settings.message_caps), default=timedelta(0))
    user = (await FetchStore(runtime.database).users({user_guid}, since=now - longest_cap))[user_guid]
    sweeps = SweepStore(runtime.database, statuses=settings.reconnect_statuses, notice_days=settings.expiry_notice_days)
    outlook = explainer.outlook(
        record["member"],
        record["reconnections"][0] if record["reconnections"] else None,
        user,
        would_open=await sweeps.would_open_for(guid, now),
    )
    return {
        **_member(record, settings, now),
        "webhooks": [(hint.at, hint.text) for hint in await WebhookStore(runtime.database).of_member(guid)],
        "contact": explainer.contact(user, refused_why=(record["user"] or {}).get("refused_why")),
        "sync": synced(await SyncStore(runtime.database).last()),
        "not_understood": [asdict(kind) for kind in await UnreadableStore(runtime.database).of_user(user_guid)],
        "holds": [msgspec.structs.asdict(hold) for hold in outlook.holds],
        "next": outlook.next,
    }


def _member(record: dict[str, Any], settings: Settings, now: datetime) -> dict[str, Any]:
    member = record["member"]
    if member is None:
        selection, institution = "the application has deleted this member", ""
    else:
        facts = MemberFacts(**{name: member[name] for name in MemberFacts.__struct_fields__})
        selection = classify(facts, statuses=settings.reconnect_statuses, now=now).text
        days = settings.expiry_notice_days
        if is_near(facts, statuses=settings.reconnect_statuses, days=days, now=now):
            selection = f"picked for a notice: its token expires at {when(facts.token_expires_at)} (EXPIRY_NOTICE_DAYS)"
        if older := member["older_row"]:
            selection = f"skipped: MX carries {older} on under this GUID, so that row is followed; see `reconnect explain {older}`"
        institution = shown(member["institution_name"] or member["institution_code"] or "")
    reconnections = [
        {
            **{
                name: reconnection[name]
                for name in ("id", "state", "reason", "broken_since", "opened_at", "closed_at", "attempts", "outcome")
            },
            "moved_to": reconnection["moved_to"],
            "notified_at": reconnection["notified_at"],
            "clicked_at": reconnection["clicked_at"],
            "owed_at": reconnection["owed_at"],
            "history": _history(reconnection),
        }
        for reconnection in record["reconnections"]
    ]
    return {
        "member_guid": member["member_guid"] if member else None,
        "institution": institution,
        "verdict": selection,
        "expiry": _expiry(member) if member else None,
        "reconnections": reconnections,
    }


def _expiry(member: dict[str, Any]) -> str | None:
    """The expiry of its token, and who set the date; ``None`` without a date."""
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
    cause = "its token expires" if reconnection["reason"] == Reason.EXPIRES_SOON else "broken since"
    events = [(reconnection["opened_at"], f"opened; {cause} {when(reconnection['broken_since'])}")]
    events += [(window["fetched_at"], "a fresh window was stored") for window in reconnection["windows"]]
    for message in reconnection["notifications"]:
        at = message["sent_at"] or message["created_at"]
        outcome = f" ({message['outcome']})" if message["outcome"] else ""
        events.append((at, f"message {message['step'] + 1} by {message['channel']}: {message['state']}{outcome}"))
    for press in reconnection["clicks"]:
        events.append((press["clicked_at"], f"its link's button was pressed: {press['outcome'] or 'under way'}"))
    if reconnection["outcome"] and reconnection["outcome_at"]:
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

"""`status` and `explain`: what is in hand, why, and what comes next."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

import typer
from rich.table import Table

from worker.cli.reporting import came_back, given_up, never_told, span
from worker.cli.session import AsJson, out, print_json, run, styled, when
from worker.errors import UsageError, WorkerError
from worker.names import shown
from worker.policy.notices import is_near
from worker.policy.selection import MemberFacts, Reason, judge
from worker.policy.states import ReconnectionState
from worker.runtime import Runtime
from worker.settings import Settings
from worker.store.pauses import PauseStore
from worker.store.reports import ReportStore
from worker.store.returns import Returns, ReturnStore


def add_to(app: typer.Typer) -> None:
    app.command()(status)
    app.command()(explain)


def status(*, as_json: bool = AsJson) -> None:
    """The funnel and the backlog."""

    async def job(runtime: Runtime) -> dict[str, Any]:
        now = await runtime.set_clock()
        reports = ReportStore(runtime.database)
        return {
            "at": now,
            **await reports.funnel(),
            "backlog": await reports.backlog(now),
            "outcomes": [
                {"state": state, "outcome": outcome, "count": count}
                for state, outcome, count in await reports.outcomes()
            ],
            "pauses": [
                {"scope": p.scope, "reason": p.reason, "since": p.since, "probe_at": p.probe_at}
                for p in await PauseStore(runtime.database).all()
            ],
            "open_by_reason": await reports.open_by_reason(),
            "returns": asdict(await ReturnStore(runtime.database).lately(now)),
            "last_sweep": await reports.last_sweep(),
        }

    found = run(job)
    if as_json:
        print_json(found)
        return
    for pause in found["pauses"]:
        probe = f"; tried again at {when(pause['probe_at'])}" if pause["probe_at"] else "; until `reconnect resume`"
        says = f" {pause['scope']} since {when(pause['since'])}: {pause['reason']}{probe}"
        out.print(styled(("Paused", "bold red"), says))
    out.print(funnel_table(found))
    backlog = found["backlog"]
    out.print(
        f"In hand: {backlog['due_now']} due, {backlog['leased']} being fetched, {backlog['to_deliver_now']} to deliver, "
        f"{backlog['sending']} being sent. For later: {backlog['due_later']} reconnections ({backlog['retrying']} of them "
        f"retries), {backlog['to_deliver_later']} notifications; the next is due {when(backlog['next_due_at'])}."
    )
    if ahead := found["open_by_reason"].get(str(Reason.EXPIRES_SOON)):
        out.print(f"Of the open reconnections, {ahead} are notices ahead of an expiry: their members are well.")
    out.print(came_back(Returns(**found["returns"])))
    for line in _given_up(found["outcomes"]):
        out.print(line)
    sweep = found["last_sweep"]
    if sweep is None:
        out.print("No sweep yet: run `reconnect sweep`, or start beat.")
    else:
        out.print(
            f"Last sweep {when(sweep['started_at'])}: opened {sweep['opened']}, recovered {sweep['recovered']}, closed "
            f"{sweep['closed']}, reminded {sweep['reminded']}, exhausted {sweep['exhausted']}."
        )


def _given_up(outcomes: Sequence[dict[str, Any]]) -> Iterator[str]:
    """The report lines for what ended ``exhausted``."""
    counts = {item["outcome"]: item["count"] for item in outcomes if item["state"] == ReconnectionState.EXHAUSTED}
    if unheard := counts.pop("reminders_unheard", 0):
        yield f"{given_up(unheard)}."
    if failed := sum(counts.values()):
        yield f"{never_told(failed)}."


def funnel_table(found: dict[str, Any]) -> Table:
    """States, how many stand in each, and why."""
    table = Table("", "state", "count", "why", title="Funnel", title_justify="left")
    why: dict[str, list[str]] = {}
    for item in found.get("outcomes", ()):
        why.setdefault(item["state"], []).append(f"{item['outcome']} {item['count']}")
    for kind in ("reconnections", "notifications"):
        for position, (state, count) in enumerate(found[kind].items()):
            reasons = ", ".join(why.get(state, ())) if kind == "reconnections" else ""
            table.add_row(kind if position == 0 else "", state, str(count), reasons, style=None if count else "dim")
        table.add_section()
    return table


def explain(guid: str = typer.Argument(..., metavar="MBR-…"), *, as_json: bool = AsJson) -> None:
    """Why this member was picked or skipped, its history, what comes next."""
    if not guid.startswith("MBR-"):
        raise UsageError(f"{guid[:60]!r} is no member GUID; it starts with MBR-")

    async def job(runtime: Runtime) -> dict[str, Any]:
        now = await runtime.set_clock()
        found = await ReportStore(runtime.database).member(guid)
        if found is None:
            raise WorkerError(f"{guid} is not in the database: import it, or let your application write it")
        pauses = [pause.scope for pause in await PauseStore(runtime.database).all()]
        return _told(found, pauses, runtime.settings, now)

    found = run(job)
    if as_json:
        print_json(found)
        return
    out.print(styled((guid, "bold"), f" {found['institution']}"))
    out.print(f"  Rule: {found['verdict']}.")
    out.print(f"  User: {found['contact']}.")
    for episode in found["episodes"]:
        out.print(
            f"  Reconnection {episode['id']}: {episode['state']}, opened {when(episode['opened_at'])} ({episode['reason']})"
        )
        for at, text in episode["history"]:
            out.print(f"    {when(at)}  {text}")
    out.print(f"  Next: {found['next']}.")


def _told(found: dict[str, Any], pauses: list[str], settings: Settings, now: datetime) -> dict[str, Any]:
    member, user = found["member"], found["user"]
    if member is None:
        verdict, institution = "the application has deleted this member", ""
    else:
        facts = MemberFacts(**{name: member[name] for name in MemberFacts.__struct_fields__})
        verdict = judge(facts, statuses=settings.reconnect_statuses, now=now).text
        days = settings.expiry_notice_days
        if is_near(facts, statuses=settings.reconnect_statuses, days=days, now=now):
            verdict = f"picked for a notice: its token expires at {when(facts.token_expires_at)} (EXPIRY_NOTICE_DAYS)"
        institution = shown(member["institution_name"] or member["institution_code"] or "")
    ways = [*(["email"] if user and user["email"] else []), *found["devices"]]
    contact = f"can be reached by {', '.join(ways)}" if ways else "has no address, so nobody can be told"
    if user and user["refused_email"] and user["refused_email"] == user["email"]:
        why = f" ({user['refused_why']})" if user["refused_why"] else ""
        contact += f"; the email address was refused for good{why}"
    episodes = [
        {
            **{
                k: e[k]
                for k in ("id", "state", "reason", "broken_since", "opened_at", "closed_at", "attempts", "outcome")
            },
            "moved_to": e["moved_to"],
            "notified_at": e["notified_at"],
            "history": _history(e),
        }
        for e in found["episodes"]
    ]
    upcoming = _next(found["episodes"][0] if found["episodes"] else None, verdict, pauses, now)
    return {
        "member_guid": member["member_guid"] if member else None,
        "institution": institution,
        "verdict": verdict,
        "contact": contact,
        "episodes": episodes,
        "next": upcoming,
    }


def _history(episode: dict[str, Any]) -> list[tuple[datetime, str]]:
    of = "its token expires" if episode["reason"] == Reason.EXPIRES_SOON else "broken since"
    events = [(episode["opened_at"], f"opened; {of} {when(episode['broken_since'])}")]
    events += [(window["fetched_at"], "a fresh window was stored") for window in episode["windows"]]
    for told in episode["notifications"]:
        at = told["sent_at"] or told["created_at"]
        outcome = f" ({told['outcome']})" if told["outcome"] else ""
        events.append((at, f"message {told['step'] + 1} by {told['channel']}: {told['state']}{outcome}"))
    if episode["outcome_at"]:
        events.append((episode["outcome_at"], f"last outcome: {episode['outcome']}, attempts {episode['attempts']}"))
    if episode["moved_to"]:
        events.append((episode["outcome_at"] or episode["opened_at"], f"MX carries it on as {episode['moved_to']}"))
    if episode["closed_at"]:
        events.append((episode["closed_at"], f"ended as {episode['state']}{_how_long(episode)}"))
    return sorted(events, key=lambda event: event[0])


def _how_long(episode: dict[str, Any]) -> str:
    """For those who came back: how long it took, and whether a message had prompted it."""
    if episode["state"] != ReconnectionState.RECONNECTED:
        return ""
    told = episode["notified_at"]
    prompted = f"{span(episode['closed_at'] - told)} after the newest message" if told else "without a message"
    return f", {span(episode['closed_at'] - episode['opened_at'])} after it was opened and {prompted}"


def _next(  # noqa: PLR0911 - one return for each state
    episode: dict[str, Any] | None, verdict: str, pauses: list[str], now: datetime
) -> str:
    """What will happen by itself."""
    held = f" (paused: {', '.join(pauses)})" if pauses else ""
    if episode is None:
        return ("the next sweep opens a reconnection" if verdict.startswith("picked") else "nothing") + held
    at = episode["next_attempt_at"]
    match episode["state"]:
        case "due" if at and at <= now:
            return "a worker fetches a window as soon as one is free" + held
        case "notified" | "due" if episode["reason"] == Reason.EXPIRES_SOON:
            ends = f"its expiry {when(episode['broken_since'])}, or a later token_expires_at, ends this notice"
            return (f"the next notice is due {when(at)}; {ends}" if at else f"no further notice; {ends}") + held
        case "due":
            return f"a window is fetched at {when(at)}" + held
        case "leased":
            return f"{episode['lease_holder']} is fetching a window; its lease runs out {when(episode['lease_expires_at'])}"
        case "ready":
            return "its message is delivered" + held
        case "notified":
            return (
                f"the member is looked at {when(episode['next_check_at'])}; the next reminder is due {when(at)}" + held
            )
        case "reconnected" | "cancelled" | "gone":
            return "nothing, unless it breaks again"
        case "unsupported":
            return f"asked again after {when(episode['reopen_at'])}"
    return f"nothing, until somebody looks and runs `reconnect retry {episode['member_guid']}`"

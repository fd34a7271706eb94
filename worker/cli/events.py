"""`events`: shows the state of the events to the application, and posts them again."""

from datetime import datetime
from typing import Any

import msgspec
import typer
from rich.table import Table

from worker.cli.session import AsJson, out, print_json, run, styled, when
from worker.errors import UsageError, WorkerError
from worker.policy import events as policy
from worker.policy.moments import NEVER, read_moment
from worker.runtime import Runtime
from worker.stages.sweep import wake
from worker.store.events.queue import FAILED, WAITING, EventStanding, EventStore
from worker.store.pauses import EVENTS, PauseStore


def add_to(app: typer.Typer) -> None:
    app.command()(events)


def events(
    *,
    replay: bool = typer.Option(False, "--replay", help="Post events again: needs --since, --failed or both."),
    since: str | None = typer.Option(
        None,
        "--since",
        metavar="MOMENT",
        help="With --replay: those that happened since then, such as 2026-11-26T09:00Z.",
    ),
    failed: bool = typer.Option(False, "--failed", help="With --replay: only those that were given up."),
    schema: bool = typer.Option(False, "--schema", help="Print the JSON Schema of events."),
    as_json: bool = AsJson,
) -> None:
    """How events to your application stand; or post them again, under the same ids."""
    if schema:
        print_json(policy.schema())
        return
    if (since is not None or failed) and not replay:
        raise UsageError("--since and --failed go with --replay")
    if replay:
        _replay(since, failed_only=failed, as_json=as_json)
        return
    state = run(_state)
    if as_json:
        print_json(state)
    else:
        _print(state)


def _replay(since: str | None, *, failed_only: bool, as_json: bool) -> None:
    if since is None and not failed_only:
        raise UsageError("say which: --since MOMENT for all since then, --failed for those that were given up")
    moment = read_moment(since) if since is not None else None
    if since is not None and (moment is None or moment == NEVER):
        raise UsageError(f"{since[:60]!r} is no moment; expected one such as 2026-11-26T09:00Z")

    async def job(runtime: Runtime) -> int:
        if runtime.endpoint is None:
            raise WorkerError("events: EVENTS_URL is not set, so nothing can be posted")
        now = await runtime.set_clock()
        replayed = await EventStore(runtime.database).replay(since=moment, failed_only=failed_only, now=now)
        await wake(runtime)
        return replayed

    replayed = run(job)
    if as_json:
        print_json({"replayed": replayed})
    else:
        out.print(f"{replayed} events are posted again, under the same ids.")
    if not replayed:
        raise WorkerError("events: none is there to be replayed; what waits is posted anyway")


async def _state(runtime: Runtime) -> dict[str, Any]:
    store = EventStore(runtime.database)
    pause = await PauseStore(runtime.database).get(EVENTS)
    return {
        "on": runtime.endpoint is not None,
        "paused": pause.reason if pause is not None else None,
        **msgspec.structs.asdict(await store.standing()),
        "oldest_waiting": await store.listed(WAITING),
        "newest_failed": await store.listed(FAILED),
    }


def _print(state: dict[str, Any]) -> None:
    if not state["on"]:
        out.print("EVENTS_URL is not set: no events are written or posted.")
    if state["paused"] is not None:
        out.print(styled(("Paused", "bold red"), f" {EVENTS}: {state['paused']}"))
    out.print(standing_line(EventStanding(**{name: state[name] for name in EventStanding.__struct_fields__})))
    for title, name in (("The oldest that wait", "oldest_waiting"), ("The newest that were given up", "newest_failed")):
        if state[name]:
            table = Table(title=title, title_justify="left")
            for heading in ("sequence", "id", "type", "of", "happened", "attempts", "last answer", "next"):
                table.add_column(heading)
            for event in state[name]:
                table.add_row(
                    str(event["id"]),
                    event["event_id"],
                    event["type"],
                    event["subject"],
                    when(event["created_at"]),
                    str(event["attempts"]),
                    event["outcome"] or "—",
                    when(event["next_attempt_at"]),
                )
            out.print(table)


def standing_line(standing: EventStanding) -> str:
    """The outbox in one line, for `status` too."""
    oldest = f", the oldest since {when(standing.oldest_waiting_at)}" if standing.oldest_waiting_at is not None else ""
    given_up = f"; {standing.failed} given up: `reconnect events`" if standing.failed else ""
    return f"Events: {standing.waiting} wait{oldest}{given_up}; the last was accepted {_accepted(standing.last_accepted_at)}."


def _accepted(moment: datetime | None) -> str:
    return when(moment) if moment is not None else "never"

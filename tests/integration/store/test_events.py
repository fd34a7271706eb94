"""An event is committed in the same transaction as the change that it tells of, and names its subjects by GUIDs only."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text

from tests.events import MOVES, expected, of_moves, triggers, ways
from tests.integration.stages.links import message, reconnection
from worker.policy.events import EventType
from worker.policy.states import TELLS, Move, Mover, NotificationState, ReconnectionState, event_of
from worker.stages.sweep import sweep
from worker.store.addresses import AddressStore
from worker.store.notifications.transitions import NotificationTransitions
from worker.store.pauses import PauseStore, outage_scope
from worker.store.reconnections.changes import Change
from worker.store.reconnections.closing import Closing
from worker.store.reconnections.transitions import Transitions
from worker.store.sql.tables import reconnections

EVENTS = {"events_url": "http://127.0.0.1:9/events", "events_secrets": "whsec_" + "a2V5" * 8}
r = reconnections.c
_R = ReconnectionState


async def watched(bench_for: Any, **overrides: Any) -> Any:
    """A bench whose database records every change of a state."""
    bench = await bench_for(**(EVENTS | overrides))
    for statement in triggers(is_sqlite=bench.runtime.database.rows.is_sqlite):
        await bench.sql(statement.replace(":", r"\:"))
    return bench


async def events(bench: Any) -> list[tuple[str, dict[str, Any]]]:
    return [(row[0], json.loads(row[1])) for row in await bench.sql("SELECT type, data FROM events ORDER BY id")]


async def changes(bench: Any) -> list[tuple[str, int, str, str]]:
    return [tuple(row) for row in await bench.sql("SELECT kind, row_id, before, after FROM state_changes ORDER BY id")]


def test_what_is_told_of_a_change_does_not_depend_on_who_makes_it() -> None:
    assert not ways(told=True) & ways(told=False)
    for move in MOVES:
        for after in move.after:
            assert (event_of(move.name, after) is not None) is move.has_event, move
    # Every event type that belongs to a move has a move, and so has every end of a reconnection.
    not_moves = {"clicked", "moved", "opted_out", "suspected", "over"}
    assert set(TELLS.values()) == {type_ for type_ in EventType if type_.partition(".")[2] not in not_moves}


Drive = Callable[[Any, int, Move, Any, Any], Awaitable[object]]


async def _apply(bench: Any, id_: int, move: Move, before: Any, after: Any, *, by: Mover) -> object:
    now = bench.runtime.clock.now()
    columns = {"closed_at": now, "outcome": "x"} if move.name == "close" else {"outcome": "x"}
    change = Change(id=id_, name=move.name, before=before, after=after, columns=columns)
    transitions = bench.runtime.database.rows.part(Transitions)
    return await bench.runtime.database.transaction(lambda c: transitions.apply(c, [change], by=by, now=now))


async def _open(bench: Any, *_: Any, **__: Any) -> object:
    await bench.member("new", connection_status="DENIED")
    return await sweep(bench.runtime)


async def _close(bench: Any, id_: int, _move: Move, before: Any, after: Any, *, by: Mover) -> object:
    assert by is Mover.SWEEP
    closing, now = bench.runtime.database.rows.part(Closing), bench.runtime.clock.now()
    return await bench.runtime.database.transaction(
        lambda c: closing.close(c, r.id == id_, before=(before,), after=(after,), state=after, outcome="x", now=now)
    )


async def _reopen(bench: Any, _id: int, _move: Move, before: Any, *_: Any, **__: Any) -> object:
    transitions, now = bench.runtime.database.rows.part(Transitions), bench.runtime.clock.now()
    return await bench.runtime.database.transaction(lambda c: transitions.reopen(c, [before], None, now))


async def _give_back(bench: Any, id_: int, *_: Any, **__: Any) -> object:
    transitions, now = bench.runtime.database.rows.part(Transitions), bench.runtime.clock.now()
    other = await reconnection(bench, "waits", state="due", outcome="http_500", attempts=1)
    await bench.sql("UPDATE reconnections SET outcome = 'http_500', attempts = 1 WHERE id = :i", i=id_)
    await bench.sql("DELETE FROM state_changes")
    failed = [{"id": each, "outcome": "http_500", "attempts": 1} for each in (id_, other)]
    return await bench.runtime.database.transaction(lambda c: transitions.give_back(c, failed, now))


async def _finish(bench: Any, id_: int, _move: Move, _before: Any, after: Any, **__: Any) -> object:
    notifications, now = bench.runtime.database.rows.part(NotificationTransitions), bench.runtime.clock.now()
    row = {"id": id_, "epoch": 0, "state": after, "outcome": "x", "attempts": 0, "spent": False}
    return await bench.runtime.database.transaction(lambda c: notifications.finish(c, [row], now))


async def _give_up(bench: Any, id_: int, *_: Any, **__: Any) -> object:
    notifications, now = bench.runtime.database.rows.part(NotificationTransitions), bench.runtime.clock.now()
    await bench.sql("UPDATE notifications SET lost_leases = 6 WHERE id = :i", i=id_)
    return await bench.runtime.database.transaction(lambda c: notifications.give_up(c, now))


#: The function that makes each move that has an event. A new move needs a line here.
DRIVERS: dict[tuple[str, Mover], Any] = {
    ("open", Mover.SWEEP): _open,
    ("notify", Mover.DELIVER): _apply,
    ("notify", Mover.SWEEP): _apply,
    ("close", Mover.SWEEP): _close,
    **{("close", by): _apply for by in (Mover.FETCH, Mover.DELIVER, Mover.VERIFY, Mover.CLICK, Mover.SYNC)},
    ("reopen", Mover.RETRY): _reopen,
    ("give_back", Mover.DELIVER): _give_back,
    ("finish", Mover.DELIVER): _finish,
    ("finish", Mover.SWEEP): _finish,
    ("give_up", Mover.SWEEP): _give_up,
}


async def test_every_move_that_is_told_has_its_event_in_the_same_transaction(bench_for: Any) -> None:
    bench = await watched(bench_for)
    seen = 0
    for move in MOVES:
        if not move.has_event:
            continue
        for by in move.by:
            for before in move.before or (None,):
                for after in move.after:
                    for table in (
                        "notification_reconnections",
                        "windows",
                        "notifications",
                        "reconnections",
                        "members",
                        "events",
                        "state_changes",
                    ):
                        await bench.sql(f"DELETE FROM {table}")
                    id_ = 0
                    if isinstance(before, ReconnectionState):
                        id_ = await reconnection(bench, "a", state=str(before))
                    elif before is not None:
                        id_ = await message(
                            bench, "a", await reconnection(bench, "a", state="ready"), state=str(before)
                        )
                    await bench.sql("DELETE FROM state_changes")
                    await DRIVERS[move.name, by](bench, id_, move, before, after, by=by)
                    made, told = await changes(bench), of_moves(await events(bench))
                    assert told == expected(made) != {}, (move.name, by, before, after)
                    assert (str(TELLS[after]), id_) in told or before is None
                    seen += 1
    assert seen > 50


async def test_what_fails_tells_nothing(bench_for: Any) -> None:
    bench = await watched(bench_for)
    id_ = await reconnection(bench, "a", state="notified")
    transitions, now = bench.runtime.database.rows.part(Transitions), bench.runtime.clock.now()
    change = Change(id=id_, name="close", before=_R.NOTIFIED, after=_R.GONE, columns={"closed_at": now})

    async def work(connection: Any) -> None:
        await transitions.apply(connection, [change], by=Mover.VERIFY, now=now)
        raise RuntimeError("after the move")

    with pytest.raises(RuntimeError, match="after the move"):
        await bench.runtime.database.transaction(work)
    await bench.runtime.database.transaction(lambda c: transitions.apply(c, [], by=Mover.VERIFY, now=now))
    assert await events(bench) == []


async def test_without_events_url_nothing_is_kept(bench_for: Any) -> None:
    bench = await bench_for()
    await bench.member("a", connection_status="DENIED")
    report = await sweep(bench.runtime)
    assert report.opened == 1
    await AddressStore(bench.runtime.database).opt_out(["USR-a"], now=bench.runtime.clock.now())
    assert await events(bench) == []
    assert bench.runtime.delayed_wakes.planned == 0


async def test_a_member_that_moved_is_told_once_with_the_old_and_the_new_guid(bench_for: Any) -> None:
    bench = await watched(bench_for)
    id_ = await reconnection(bench, "a", state="leased")
    transitions, now = bench.runtime.database.rows.part(Transitions), bench.runtime.clock.now()
    for before, after in ((_R.LEASED, _R.READY), (_R.READY, _R.NOTIFIED)):
        name = "ready" if after is _R.READY else "notify"
        change = Change(id=id_, name=name, before=before, after=after, columns={"moved_to": "MBR-new"})
        await bench.runtime.database.transaction(
            lambda c, change=change, by=Mover.FETCH if after is _R.READY else Mover.DELIVER: transitions.apply(
                c, [change], by=by, now=now
            )
        )
    told = await events(bench)
    assert [type_ for type_, _ in told] == ["reconnection.moved", "reconnection.notified"]
    assert (told[0][1]["member_guid"], told[0][1]["moved_to"]) == ("MBR-a", "MBR-new")


async def test_an_opt_out_and_an_outage_are_told_once(bench_for: Any) -> None:
    bench = await watched(bench_for)
    await bench.member("a")
    store, pauses, now = (
        AddressStore(bench.runtime.database),
        PauseStore(bench.runtime.database),
        bench.runtime.clock.now(),
    )
    for _ in range(2):
        assert await store.opt_out(["USR-a", "USR-nobody"], now=now) == {"USR-a"}
        await pauses.set(outage_scope("alder"), "a burst", now=now, probe_after=timedelta(hours=1))
    await pauses.set("institution:alder", "by hand", now=now)
    await pauses.lift("institution:alder")
    for _ in range(2):
        await pauses.lift(outage_scope("alder"))
    assert await events(bench) == [
        ("user.opted_out", {"user_guid": "USR-a"}),
        ("outage.suspected", {"institution_code": "alder"}),
        ("outage.over", {"institution_code": "alder"}),
    ]


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)  # SQLite has one writer at a time
async def test_two_opt_outs_at_once_are_told_once(bench_for: Any) -> None:
    bench = await watched(bench_for)
    await bench.member("a")
    store, now = AddressStore(bench.runtime.database), bench.runtime.clock.now()
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    async with bench.runtime.database.engine.connect() as writer:
        await writer.execute(text("SELECT FROM users FOR UPDATE"))
        both = asyncio.gather(*(store.opt_out(["USR-a"], now=now) for _ in range(2)))
        async with asyncio.timeout(30):
            while await bench.one(waiting) < 2:  # noqa: ASYNC110 - a database has no events
                await asyncio.sleep(0.01)
        await writer.rollback()
        assert await both == [{"USR-a"}, {"USR-a"}]
    assert await events(bench) == [("user.opted_out", {"user_guid": "USR-a"})]


async def test_a_message_names_what_it_was_about(bench_for: Any) -> None:
    bench = await watched(bench_for)
    ids = [await reconnection(bench, name, user="u", state="ready") for name in ("a", "b")]
    message_id = await message(bench, "u", *ids, state="sending")
    await _finish(bench, message_id, None, None, NotificationState.SENT)  # type: ignore[arg-type]
    ((type_, data),) = await events(bench)
    assert type_ == "notification.sent"
    assert data == {
        "notification_id": message_id,
        "user_guid": "USR-u",
        "channel": "email",
        "step": 0,
        "outcome": "x",
        "reconnection_ids": ids,
        "member_guids": ["MBR-a", "MBR-b"],
    }

"""A sweep visits only members that changed or fell due. A visit to all members afterwards must change nothing."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import event, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from tests.faults.schedule import LONG
from worker.policy.states import Mover, ReconnectionState
from worker.stages.planning import defer
from worker.store import sweeping
from worker.store.changes import ASTRAY, Changes
from worker.store.from_mx.answers import MxMember
from worker.store.from_mx.members import MxMembers
from worker.store.members import Well
from worker.store.reconnections.changes import close
from worker.store.reconnections.transitions import Transitions
from worker.store.sql.moments import NEVER, as_text
from worker.store.sql.tables import changed_members, reconnections
from worker.store.sweeping import SweepStore
from worker.store.transactions.catch_up import CatchUpStore
from worker.store.transactions.fetch import FetchStore
from worker.store.transactions.retry import RetryStore
from worker.store.transactions.visit import Visits

EXAMPLES, STEPS = (400, 60) if LONG else (10, 18)
START = datetime(2026, 11, 23, 12, tzinfo=UTC)
NOBODY = timedelta(0)
#: Few, so that most steps concern an existing member. The last one does not look like a GUID.
GUIDS = ("MBR-1", "MBR-2", "MBR-3", "MBR-4", "MBR-5", "MBR-6", "né")
_R = ReconnectionState
r = reconnections.c

hours = st.sampled_from([-900, -49, -1, 1, 25, 72, 24 * 9, 24 * 40])
dates = st.none() | hours.map(lambda h: START + timedelta(hours=h))
columns = st.fixed_dictionaries(
    {},
    optional={
        "connection_status": st.sampled_from([None, "CONNECTED", "DENIED", "CHALLENGED", "UPDATED", "connected", "3"]),
        "is_oauth": st.sampled_from([None, True, False]),
        "error_code": st.sampled_from([None, 2004, 1000]),
        "token_expires_at": dates,
        "token_revoked_at": dates,
        "user_guid": st.sampled_from(["USR-1", "USR-2", "nö"]),
        "institution_name": st.sampled_from(["a", "b"]),
    },
)
one = st.sampled_from(GUIDS)
sweeps = st.tuples(st.just("sweep"))
steps = st.one_of(
    st.tuples(st.just("write"), one, columns),
    st.tuples(st.just("write"), one, columns),
    st.tuples(st.just("write_all"), columns),
    st.tuples(st.just("delete"), one),
    st.tuples(st.just("rename"), one, one),
    st.tuples(st.just("empty"), st.booleans()),
    st.tuples(st.just("clock"), st.sampled_from([-400, -3, 1, 5, 30, 24 * 3, 24 * 8, 24 * 31])),
    st.tuples(
        st.just("settings"),
        st.sampled_from([("DENIED",), ("DENIED", "CHALLENGED"), ("IMPAIRED",)]),
        st.sampled_from([(), (7, 2), (30,)]),
    ),
    st.tuples(st.just("lease"), one),
    st.tuples(st.just("release"), one),
    st.tuples(st.just("end"), one, st.sampled_from(["exhausted", "unsupported", "gone", "reconnected", "cancelled"])),
    st.tuples(st.just("retry")),
    st.tuples(
        st.just("sync"),
        st.dictionaries(st.sampled_from(GUIDS[:6]), st.sampled_from(["CONNECTED", "DENIED", "CHALLENGED"])),
    ),
    st.tuples(st.just("catch_up"), one, st.sampled_from([0, 1])),
    st.tuples(st.just("killed"), st.integers(1, 14)),
    sweeps,
    sweeps,
    sweeps,
)


#: Each history fails if one of the ways in which a member is listed is missing. All moments are within a day, since otherwise the
#: daily reconciliation would find the member.
BROKEN: tuple[Any, ...] = (("write", "MBR-1", {"connection_status": "DENIED"}), ("sweep",))
EXPIRING: tuple[Any, ...] = (("write", "MBR-1", {"token_expires_at": START + timedelta(hours=1)}), ("sweep",))
KNOWN_HISTORIES: dict[str, list[tuple[Any, ...]]] = {
    "mended while it was leased": [
        *BROKEN, ("lease", "MBR-1"), ("write", "MBR-1", {"connection_status": "CONNECTED"}), ("sweep",),
        ("release", "MBR-1"),
    ],
    "expired": [*EXPIRING, ("clock", 5)],
    "expired, and the clock was put back": [*EXPIRING, ("clock", 5), ("sweep",), ("clock", -5)],
    "a notice falls due": [
        ("write", "MBR-1", {"token_expires_at": START + timedelta(days=7, hours=1)}), ("sweep",), ("clock", 2),
    ],
    "rested": [*BROKEN, ("end", "MBR-1", "unsupported"), ("clock", 24 * 28 - 4), ("sweep",), ("clock", 5)],
    "ended although it is broken": [*BROKEN, ("end", "MBR-1", "cancelled")],
    "back, and an earlier one is at rest": [
        *BROKEN, ("end", "MBR-1", "exhausted"), ("clock", 1),
        ("write", "MBR-1", {"token_revoked_at": START + timedelta(minutes=30)}), ("sweep",), ("clock", 1),
        ("end", "MBR-1", "reconnected"),
    ],
    "requeued although it is well": [
        *BROKEN, ("write", "MBR-1", {"connection_status": "CONNECTED"}), ("end", "MBR-1", "exhausted"), ("sweep",),
        ("retry",),
    ],
    "MX says of one that it is back, and of others that they broke or stand otherwise": [
        *BROKEN, ("write", "MBR-3", {"connection_status": "DENIED"}), ("sweep",),
        ("sync", {"MBR-1": "CONNECTED", "MBR-2": "DENIED", "MBR-3": "CHALLENGED"}),
    ],
    "a webhook is worked on by a clock behind that of the last sweep": [
        *EXPIRING, ("clock", 1), ("sweep",), ("catch_up", "MBR-1", 1),
    ],
    "the settings changed": [
        ("write", "MBR-1", {"connection_status": "CHALLENGED"}), ("sweep",), ("settings", ("CHALLENGED",), ()),
    ],
    "gone at MX, and there again": [*BROKEN, ("end", "MBR-1", "gone"), ("sweep",), ("clock", 1), ("sync", {"MBR-1": "DENIED"})],
    "deleted and back": [
        *BROKEN, ("end", "MBR-1", "gone"), ("delete", "MBR-1"), ("sweep",),
        ("write", "MBR-1", {"connection_status": "CONNECTED"}),
    ],
    "renamed": [*BROKEN, ("rename", "MBR-1", "MBR-6")],
    "emptied": [*BROKEN, ("empty", True)],
    "killed": [("write_all", {"connection_status": "DENIED"}), *(("killed", at) for at in range(1, 16))],
}  # fmt: skip


class Killed(Exception):  # noqa: N818 - no error
    """Stands for the death of the process."""


@contextmanager
def killed_at(engine: Any, statement: int) -> Iterator[None]:
    """Raise :class:`Killed` before the given statement, counted from 1."""
    left = statement

    def count(*_: Any) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise Killed

    event.listen(engine.sync_engine, "before_cursor_execute", count)
    try:
        yield
    except Killed:
        pass
    finally:
        event.remove(engine.sync_engine, "before_cursor_execute", count)


class History:
    """A database, and one method for each step that an application, a stage, an operator or a sweep can take on it."""

    def __init__(self, bench: Any) -> None:
        self._bench = bench
        self._database = bench.runtime.database
        self._now = START
        self._statuses: tuple[str, ...] = ("DENIED",)
        self._days: tuple[int, ...] = (7, 2)

    async def begin(self) -> None:
        self._now, self._statuses, self._days = START, ("DENIED",), (7, 2)
        for table in ("reconnections", "members", "changed_members", "sweep_marks", "reconciliations"):
            await self._bench.sql(f"DELETE FROM {table}")
        for guid in GUIDS[:3]:
            await self.write(guid, {})

    async def write(self, guid: str, given: dict[str, Any]) -> None:
        values = {"user_guid": "USR-1"} | self._stored(given)
        names = ", ".join(["member_guid", *values])
        marks = ", ".join(f":{name}" for name in ["member_guid", *values])
        sets = ", ".join(f"{name} = excluded.{name}" for name in values)
        await self._bench.sql(
            f"INSERT INTO members ({names}) VALUES ({marks}) ON CONFLICT (member_guid) DO UPDATE SET {sets}",
            member_guid=guid, **values,
        )  # fmt: skip

    async def write_all(self, given: dict[str, Any]) -> None:
        if values := self._stored(given):
            await self._bench.sql(f"UPDATE members SET {', '.join(f'{name} = :{name}' for name in values)}", **values)

    def _stored(self, given: dict[str, Any]) -> dict[str, Any]:
        return {
            name: self._bench.moment(value) if isinstance(value, datetime) else value for name, value in given.items()
        }

    async def delete(self, guid: str) -> None:
        await self._bench.sql("DELETE FROM members WHERE member_guid = :guid", guid=guid)

    async def rename(self, old: str, new: str) -> None:
        await self._bench.sql(
            "UPDATE members SET member_guid = :new WHERE member_guid = :old "
            "AND NOT EXISTS (SELECT 1 FROM members WHERE member_guid = :new)",
            old=old, new=new,
        )  # fmt: skip

    async def empty(self, truncated: bool) -> None:
        can = truncated and not self._database.rows.is_sqlite
        await self._bench.sql("TRUNCATE members" if can else "DELETE FROM members")

    async def clock(self, by: float) -> None:
        self._now += timedelta(hours=by)

    async def settings(self, statuses: tuple[str, ...], days: tuple[int, ...]) -> None:
        self._statuses, self._days = statuses, days

    async def lease(self, guid: str) -> None:
        await self._bench.sql(
            "UPDATE reconnections SET state = 'leased' WHERE member_guid = :guid AND state = 'due'", guid=guid
        )

    async def release(self, guid: str) -> None:
        await self._bench.sql(
            "UPDATE reconnections SET state = 'due' WHERE member_guid = :guid AND state = 'leased'", guid=guid
        )

    async def end(self, guid: str, state: str) -> None:
        """Lease the member's reconnection and end it, as a stage does."""
        await self.lease(guid)
        rests = {"exhausted": NEVER, "gone": NEVER, "unsupported": self._now + timedelta(days=28)}
        well = None
        if state == "reconnected":
            well = Well(member_guid=guid, connection_status="CONNECTED", error_code=None, aggregated_at=self._now)

        async def work(connection: AsyncConnection) -> None:
            found = await connection.execute(select(r.id).where(r.member_guid == guid, r.state == "leased"))
            changes = [
                close(id_, _R.LEASED, _R(state), now=self._now, well=well, outcome="test", reopen_at=rests.get(state))
                for id_ in found.scalars()
            ]
            await self._database.rows.part(Transitions).apply(connection, changes, by=Mover.FETCH, now=self._now)

        await self._database.transaction(work)

    async def sync(self, said: dict[str, str]) -> None:
        """Apply MX's answers about the members of one page in one transaction."""
        at = self._now + timedelta(minutes=1)
        answers = [
            MxMember(user_guid="USR-1", member_guid=guid, connection_status=status, successfully_aggregated_at=at)
            for guid, status in said.items()
        ]
        await self._database.transaction(
            lambda connection: self._database.rows.part(MxMembers).apply(
                connection, answers, read_at=self._now, now=self._now
            )
        )

    async def catch_up(self, guid: str, seconds_behind: int) -> None:
        store = CatchUpStore(self._database, statuses=self._statuses, notice_days=self._days)
        await store.catch_up([guid], self._now - timedelta(seconds=seconds_behind), grace_seconds=0)

    async def retry(self) -> None:
        await RetryStore(self._database).reconnections(["exhausted", "unsupported"], None, now=self._now)

    async def killed(self, statement: int) -> None:
        with killed_at(self._database.engine, statement):
            await self._sweep_once()

    async def _sweep_once(self) -> None:
        store = SweepStore(self._database, statuses=self._statuses, notice_days=self._days)
        await store.begin_visits(self._now)
        await store.visit_changed(self._now, grace=NOBODY)
        await store.reconcile(self._now, grace=NOBODY)

    async def sweep(self) -> None:
        """Sweep until no reconciliation is unfinished. Then assert that a visit to everybody changes nothing."""
        await self._sweep_once()
        while await self._bench.one("SELECT count(*) FROM reconciliations WHERE finished_at IS NULL"):
            await self._sweep_once()
        visits = Visits(self._database.rows, statuses=self._statuses, notice_days=self._days)
        rows = select(r.member_guid, r.id, r.state, r.outcome, r.closed_at, r.reopen_at).order_by(r.id)
        async with self._database.engine.connect() as connection:
            as_of = await self._database.rows.part(Changes).as_of(connection, self._now)
            assert as_of - self._now <= ASTRAY
            swept = (await connection.execute(rows)).all()
            everybody = [*GUIDS, *{row.member_guid for row in swept}]
            await visits.visit(connection, everybody, as_of, grace=NOBODY)
            visited = (await connection.execute(rows)).all()
            await connection.rollback()
        assert visited == swept
        open_ = {row.member_guid for row in swept if row.closed_at is None}
        leased = {row.member_guid for row in swept if row.state == "leased"}
        left = {guid for (guid,) in await self._bench.sql("SELECT DISTINCT member_guid FROM changed_members")}
        assert left <= leased <= open_


@pytest.fixture
async def run_history(bench_for: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a history on an empty database, and a sweep after it. A page has 3 rows; a sweep reconciles one page."""
    monkeypatch.setattr(sweeping, "PAGE", 3)
    monkeypatch.setattr(sweeping, "SECONDS", 0.0)
    history = History(await bench_for())

    async def run(many: list[tuple[Any, ...]]) -> None:
        await history.begin()
        for name, *arguments in [*many, ("sweep",)]:
            await getattr(history, name)(*arguments)

    return run


@pytest.mark.parametrize("history", KNOWN_HISTORIES)
async def test_a_visit_to_everybody_finds_nothing_after(run_history: Any, history: str) -> None:
    await run_history(KNOWN_HISTORIES[history])


@pytest.mark.timeout(3_600 if LONG else 600)
async def test_after_any_history_a_visit_to_everybody_finds_nothing(run_history: Any) -> None:
    loop = asyncio.get_running_loop()

    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(steps, min_size=STEPS // 2, max_size=STEPS))
    def property_holds(many: list[tuple[Any, ...]]) -> None:
        asyncio.run_coroutine_threadsafe(run_history(many), loop).result(120)

    await asyncio.to_thread(property_holds)


async def _listed(bench: Any) -> list[str]:
    return [guid for (guid,) in await bench.sql("SELECT member_guid FROM changed_members ORDER BY member_guid")]


async def test_a_write_lists_whom_the_rule_may_find_otherwise_and_nobody_else(bench_for: Any) -> None:
    bench = await bench_for()
    await bench.member("well", connection_status="CONNECTED")
    await bench.member("broken", connection_status="DENIED")
    assert await _listed(bench) == ["MBR-broken"]
    await bench.sql("DELETE FROM changed_members")
    await bench.sql("UPDATE members SET institution_name = 'Alder Bank', connection_status = connection_status")
    assert await _listed(bench) == []
    await bench.sql("UPDATE members SET connection_status = 'CONNECTED'")
    assert await _listed(bench) == ["MBR-broken"]


async def test_a_member_whose_guid_is_empty_does_not_stand_for_all(bench_for: Any) -> None:
    bench = await bench_for()
    await bench.sql("INSERT INTO members (member_guid, user_guid, connection_status) VALUES ('', 'USR-1', 'DENIED')")
    await bench.sql("UPDATE members SET connection_status = 'IMPAIRED'")
    await bench.sql("DELETE FROM members")
    assert await _listed(bench) == []


async def test_a_row_that_is_written_often_is_listed_once(bench_for: Any) -> None:
    bench = await bench_for()
    await bench.member("m", connection_status="DENIED")
    for number in range(40):
        await bench.sql("UPDATE members SET error_code = :n", n=number)
    assert await _listed(bench) == ["MBR-m"]


ON_POSTGRESQL = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


@ON_POSTGRESQL  # SQLite has one writer at a time
async def test_no_writer_waits_for_a_sweep_nor_a_sweep_for_a_writer_and_nothing_is_lost(bench_for: Any) -> None:
    bench = await bench_for()
    await bench.member("m", connection_status="DENIED")
    store = SweepStore(bench.runtime.database, statuses=("DENIED",))
    changes = bench.runtime.database.rows.part(Changes)
    now = bench.runtime.clock.now()
    engine = bench.runtime.database.engine
    became = text("UPDATE members SET connection_status = :s")
    async with engine.connect() as writer:  # a long transaction of an application
        await writer.execute(became, {"s": "CONNECTED"})
        await asyncio.wait_for(store.visit_changed(now, grace=NOBODY), 10)
        assert await _listed(bench) == ["MBR-m"]  # the writer holds the entry, so it stays
        await writer.commit()
    assert (await store.visit_changed(now, grace=NOBODY)).opened == 0
    assert await _listed(bench) == []
    await bench.sql("UPDATE members SET connection_status = 'DENIED'")
    async with engine.connect() as sweep:
        assert [guid for guid, _ in await changes.take(sweep, ("", -1), n=10)] == ["MBR-m"]
        async with asyncio.timeout(10):
            await bench.sql("UPDATE members SET connection_status = 'PREVENTED'")
        await sweep.execute(changed_members.delete().where(changed_members.c.id == 1))
        await sweep.rollback()
    assert await _listed(bench) == ["MBR-m", "MBR-m"]
    assert (await store.visit_changed(now, grace=NOBODY)).opened == 0  # PREVENTED is not among the statuses here


@ON_POSTGRESQL  # SQLite has one writer at a time
@pytest.mark.parametrize(
    ("by", "claimed"), [("list", "before the visit"), ("list", "in it"), ("reconciliation", "in it")]
)
async def test_a_member_whose_reconnection_is_handed_back_during_a_visit_is_visited_again(
    bench_for: Any, monkeypatch: pytest.MonkeyPatch, by: str, claimed: str
) -> None:
    bench = await bench_for(expiry_notice_days="7,2")
    database, now = bench.runtime.database, bench.runtime.clock.now()
    at = bench.moment(now + timedelta(days=6))
    await bench.member("m", connection_status="CONNECTED", token_expires_at=at)
    statuses = bench.runtime.settings.reconnect_statuses
    store = SweepStore(database, statuses=statuses, notice_days=(7, 2))

    async def sweep() -> None:
        await store.begin_visits(now)
        await store.visit_changed(now, grace=NOBODY)
        await store.reconcile(now, grace=NOBODY)

    await sweep()
    await bench.sql("UPDATE members SET connection_status = 'DENIED'")
    if by == "reconciliation":
        await bench.sql("DELETE FROM changed_members")
        await bench.sql("UPDATE reconciliations SET rule = 'another'")
    fetching, visit, claims = database.store(FetchStore), Visits.visit, []

    async def claim() -> None:
        claims.extend(await fetching.claim(10, worker_id="w", lease_seconds=60, now=now, soon=now))

    async def slow(self: Visits, connection: Any, guids: Any, *given: Any, **more: Any) -> Any:
        if claimed == "in it":
            await claim()
        found = await visit(self, connection, guids, *given, **more)
        while claims:
            await fetching.settle([([defer(claims.pop(), now, "no_address")], None)], now=now)
        return found

    if claimed == "before the visit":
        await claim()
    monkeypatch.setattr(Visits, "visit", slow)
    await sweep()
    assert await bench.states() == {"MBR-m": "due"}
    monkeypatch.setattr(Visits, "visit", visit)
    await sweep()
    rows = await bench.sql("SELECT reason, state FROM reconnections ORDER BY id")
    assert [tuple(row) for row in rows] == [("expires_soon", "cancelled"), ("connection_status", "due")]


@ON_POSTGRESQL  # SQLite knows one isolation
async def test_a_writer_with_an_old_snapshot_is_not_failed_by_a_sweep(bench_for: Any) -> None:
    bench = await bench_for()
    await bench.member("m", connection_status="DENIED")
    store = SweepStore(bench.runtime.database, statuses=("DENIED",))
    async with bench.runtime.database.engine.connect() as writer:
        await writer.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
        await writer.execute(text("SELECT 1 FROM members"))
        assert (await store.visit_changed(bench.runtime.clock.now(), grace=NOBODY)).opened == 1
        await writer.execute(text("UPDATE members SET connection_status = 'CONNECTED'"))
        await writer.commit()
    assert (await store.visit_changed(bench.runtime.clock.now(), grace=NOBODY)).closed == 1


@ON_POSTGRESQL  # only PostgreSQL keeps a plan for the session
async def test_a_session_that_wrote_one_row_writes_many_as_fast(bench_for: Any) -> None:
    bench = await bench_for()
    await bench.sql(
        "INSERT INTO members (member_guid, user_guid, connection_status) "
        "SELECT 'MBR-' || i, 'USR-1', 'CONNECTED' FROM generate_series(1, 20000) i"
    )
    async with bench.runtime.database.engine.begin() as connection:
        await connection.execute(text("SET LOCAL statement_timeout = '20s'"))  # with nested loops it would take minutes
        await connection.execute(text("UPDATE members SET connection_status = 'DENIED' WHERE member_guid = 'MBR-1'"))
        await connection.execute(text("UPDATE members SET connection_status = 'IMPAIRED'"))
    assert await bench.one("SELECT count(*) FROM changed_members") == 20_000


@ON_POSTGRESQL  # SQLite has no roles
async def test_an_application_needs_no_rights_on_our_tables(bench_for: Any) -> None:
    bench = await bench_for()
    async with bench.runtime.database.engine.connect() as connection:
        await connection.execute(text("CREATE ROLE only_members"))
        await connection.execute(text("GRANT INSERT, UPDATE, DELETE, SELECT, TRUNCATE ON members TO only_members"))
        await connection.execute(text("SET LOCAL ROLE only_members"))
        await connection.execute(
            text("INSERT INTO members (member_guid, user_guid, error_code) VALUES ('MBR-1', 'USR-1', 1)")
        )
        await connection.execute(text("UPDATE members SET error_code = 2004"))
        await connection.execute(text("DELETE FROM members"))
        await connection.execute(text("TRUNCATE members"))
        await connection.execute(text("RESET ROLE"))
        listed = (await connection.execute(select(changed_members.c.member_guid))).scalars().all()
        assert sorted(listed) == ["", "MBR-1"]
        await connection.rollback()


async def test_what_we_write_of_a_member_that_is_back_lists_nobody_on_postgresql(bench_for: Any) -> None:
    bench = await bench_for()
    await bench.member("m", connection_status="DENIED")
    history = History(bench)
    await history.sweep()
    await history.end("MBR-m", "reconnected")
    assert await bench.states() == {"MBR-m": "reconnected"}
    assert await bench.one("SELECT connection_status FROM members") == "CONNECTED"
    assert await _listed(bench) == (["MBR-m"] if bench.runtime.database.rows.is_sqlite else [])


async def test_a_moment_that_passes_is_found_by_its_index_and_the_others_are_not_read(bench_for: Any) -> None:
    bench = await bench_for()
    history = History(bench)
    for name, days in {"soon": 1, "later": 3}.items():
        await bench.member(name, token_expires_at=bench.moment(START + timedelta(days=days)))
    history._days = ()
    await history.sweep()
    assert await bench.states() == {}
    await history.clock(25)
    await history.sweep()
    assert await bench.states() == {"MBR-soon": "due"}
    marks = dict(map(tuple, await bench.sql("SELECT name, until FROM sweep_marks")))
    assert marks["due"] == bench.stored(START + timedelta(hours=25)), as_text(START)

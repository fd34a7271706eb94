"""Old ended reconnections are deleted with their rows in other tables, and nothing else. No decision of a stage changes by that."""

import asyncio
import os
import random
import signal
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, insert, inspect

from tests import forked
from tests.conftest import URI_KEY, make_settings
from tests.faults.schedule import LONG
from tests.integration.store.histories import NOW, Histories, ago, dangling, everything
from tests.machine import wait_until
from worker.policy.retention import age_of_deletion
from worker.stages.retention import retain
from worker.store.addresses import AddressStore
from worker.store.outages import OutageStore
from worker.store.queries.link_page import LinkPageStore
from worker.store.queries.standing import StandingStore
from worker.store.sql.database import open_sync_engine
from worker.store.sql.moments import NEVER
from worker.store.sql.tables import events, members, metadata, reconnections, sweeps, syncs
from worker.store.sweeping import SweepStore
from worker.store.transactions import retention
from worker.store.transactions.fetch import FetchStore
from worker.store.transactions.retention import RetentionStore
from worker.store.transactions.retry import RetryStore
from worker.store.transactions.visit import Visits

STATUSES = ("DENIED", "IMPAIRED", "IMPORTED", "PREVENTED")


def test_each_foreign_key_is_served_by_an_index(settings_for: Any, database_url: str) -> None:
    engine = open_sync_engine(settings_for(database_url=database_url))
    found = inspect(engine)
    without = []
    for table in found.get_table_names():
        leading = [found.get_pk_constraint(table)["constrained_columns"]]
        leading += [key["column_names"] for key in found.get_unique_constraints(table)]
        # A partial index serves only the rows that fulfil its condition.
        leading += [
            index["column_names"] for index in found.get_indexes(table)
            if not any(option.endswith("_where") for option in index.get("dialect_options", {}))
        ]  # fmt: skip
        without += [
            f"{table}.{key['constrained_columns']}"
            for key in found.get_foreign_keys(table)
            if not any(columns[: len(key["constrained_columns"])] == key["constrained_columns"] for columns in leading)
        ]
    engine.dispose()
    assert without == []


async def test_what_ended_long_ago_goes_with_all_that_hangs_on_it_and_nothing_else(bench_for: Any) -> None:
    bench = await bench_for(retention_days=400)
    told = Histories()
    for name in ("old", "young", "open", "gone", "well", "two", "both", "linked"):
        told.user(name)
    kept: set[tuple[str, int]] = set()

    def keep(table: str, *ids: int) -> None:
        kept.update((table, id_) for id_ in ids)

    # Deleted completely: the reconnection, windows, a message, its link, a click.
    old = told.reconnection("old", 460, 420)
    message = told.message("old", [old], 450)
    told.click(told.link("old", 450, days=40, of=message), old, 440)
    # Kept: one ended 399 days ago, one is open.
    for name, closed in (("young", 399.0), ("open", None)):
        id_ = told.reconnection(name, 500, closed)
        keep("reconnections", id_)
        keep("notifications", told.message(name, [id_], 490, link_days=40))
    # `gone`, and its member is still DENIED: only the reconnection's row is kept. The member's older row is deleted.
    told.reconnection("gone", 600, 590, state="exhausted", reopen_at=NEVER)
    gone = told.reconnection("gone", 500, 490, state="gone", reopen_at=NEVER)
    told.message("gone", [gone], 495, link_days=40)
    keep("reconnections", gone)
    # Deleted: `unsupported`, and its four weeks have passed.
    told.reconnection("well", 500, 490, state="unsupported", reopen_at=ago(462))
    # A message about two reconnections is deleted with the last of them.
    first, second = (
        told.reconnection(name, 500, closed, user="both") for name, closed in (("two", 450), ("both", 300))
    )
    both = told.message("both", [first, second], 480, link_days=40)
    keep("reconnections", second)
    keep("notifications", both)
    # A link that was pressed for a later break of the same member is kept until that break is old, and so is its message.
    before_it = told.reconnection("linked", 500, 460)
    letter = told.message("linked", [before_it], 470)
    link = told.link("linked", 470, days=100, of=letter)
    later = told.reconnection("linked", 430, 380)
    told.click(link, later, 425)
    keep("reconnections", later)
    keep("notifications", letter)
    # Links without a message, a message without items, sweeps.
    told.link("old", 480, days=40)
    keep("links", told.link("old", 300, days=40), link)
    told.message("old", [], 480)
    await told.write(bench.runtime.database)
    async with bench.runtime.database.engine.begin() as connection:
        await connection.execute(insert(sweeps), [{"id": n, "started_at": ago(500 - n)} for n in range(1, 6)])
        await connection.execute(insert(sweeps), [{"id": 6, "started_at": ago(401)}])
        told_of = {"type": "t", "subject": "USR-old", "data": "{}"}
        states = [(450, "accepted"), (440, "failed"), (430, "waiting"), (300, "accepted")]
        await connection.execute(
            insert(events),
            [
                told_of | {"id": n, "event_id": f"e{n}", "created_at": ago(at), "state": s}
                for n, (at, s) in enumerate(states, 1)
            ],
        )
        await connection.execute(
            insert(syncs),
            [
                {"id": n, "started_at": ago(500), "touched_at": ago(500), "finished_at": ago(500), "phase": "finished"}
                for n in (1, 2)
            ],
        )

    before = await StandingStore(bench.runtime.database).read(NOW)
    assert await retain(bench.runtime, NOW) > 0
    left = await everything(bench.runtime.database)
    for table in ("reconnections", "notifications"):
        assert {(table, row["id"]) for row in left[table]} == {each for each in kept if each[0] == table}
    alone = {("links", row["id"]) for row in left["links"] if row["notification_id"] is None}
    assert alone | {("links", link)} == {each for each in kept if each[0] == "links"}
    assert {row["reconnection_id"] for row in left["windows"]} == {
        row["reconnection_id"] for row in left["notification_reconnections"]
    } | {later}
    assert gone not in {row["reconnection_id"] for row in left["windows"]}
    assert [row["id"] for row in left["sweeps"]] == [6]  # the newest shows whether sweeps are overdue
    assert [row["id"] for row in left["events"]] == [3, 4]
    assert [row["id"] for row in left["syncs"]] == [2]
    assert await dangling(bench.runtime.database) == []
    # `status` shows the same numbers as before.
    assert _sums(await StandingStore(bench.runtime.database).read(NOW)) == _sums(before)
    # A second run deletes nothing. When the member of `gone` works again, that row is deleted too.
    assert await retain(bench.runtime, NOW) == 0
    await bench.sql("UPDATE members SET connection_status = 'CONNECTED' WHERE member_guid = 'MBR-gone'")
    visits = Visits(bench.runtime.database.rows, statuses=STATUSES, notice_days=())
    await bench.runtime.database.transaction(
        lambda connection: visits.visit(connection, ["MBR-gone"], NOW, grace=timedelta(0))
    )
    await retain(bench.runtime, NOW)
    assert gone not in {row["id"] for row in (await everything(bench.runtime.database))["reconnections"]}
    # 800 days later only the open reconnection is left, with its message and link.
    await retain(bench.runtime, NOW + timedelta(days=800))
    left = await everything(bench.runtime.database)
    assert {row["member_guid"] for row in left["reconnections"]} == {"MBR-open"}
    assert len(left["notifications"]) == len(left["links"]) == 1
    assert left["clicks"] == []


def _sums(standing: Any) -> tuple[dict[Any, int], ...]:
    found: tuple[dict[Any, int], ...] = ({}, {})
    for sums, counts in zip(found, (standing.reconnections, standing.notifications), strict=True):
        for count in counts:
            key = (count.state, count.outcome)
            sums[key] = sums.get(key, 0) + count.count
    return found


async def test_nothing_is_ever_deleted_without_the_setting(bench_for: Any) -> None:
    bench = await bench_for(retention_days="")
    told = Histories()
    told.message("a", [told.reconnection("a", 4000, 3900)], 3950, link_days=40)
    await told.write(bench.runtime.database)
    before = await everything(bench.runtime.database)
    assert await retain(bench.runtime, NOW) == 0
    after = await everything(bench.runtime.database)
    assert after.pop("daily_totals")
    assert after == {name: rows for name, rows in before.items() if name != "daily_totals"}


async def test_totals_of_a_day_follow_what_happens_to_it_later(bench_for: Any) -> None:
    bench = await bench_for(retention_days=100)
    database, reports = bench.runtime.database, StandingStore(bench.runtime.database)
    told = Histories()
    for number in range(6):
        told.user(f"u{number}")
        id_ = told.reconnection(
            f"u{number}", 60, 50 if number < 4 else 300 - number, state="exhausted", reopen_at=NEVER
        )
        told.message(f"u{number}", [id_], 55, state="sent" if number < 4 else "unknown", link_days=40)
    await told.write(database)

    async def stands() -> dict[Any, int]:
        one, other = _sums(await reports.read(NOW))
        return one | other

    fresh = await stands()
    assert fresh["exhausted", "not_back"] == 6
    await retain(bench.runtime, NOW)  # empties the two old histories
    assert await stands() == fresh
    assert await RetryStore(database).reconnections(["exhausted"], ["MBR-u0", "MBR-u5"], now=NOW) == 2
    assert await stands() == fresh | {("exhausted", "not_back"): 4, ("due", "requeued"): 2}
    ids = [row["id"] for row in (await everything(database))["notifications"]]
    await AddressStore(database).refuse({}, bounced=[(ids[1], "bounce: 5.1.1")], now=NOW)
    for _ in range(2):  # the second changes nothing
        await AddressStore(database).refuse({}, bounced=[(ids[1], "bounce: 5.1.1")], now=NOW)
        changed = await stands()
        assert changed["sent", "bounce: 5.1.1"] == 1
        assert changed["sent", "sent"] == fresh["sent", "sent"] - 1
    # An emptied reconnection was requeued and ends again: it counts as one history again.
    await bench.sql(
        "UPDATE reconnections SET state = 'reconnected', outcome = 'back', closed_at = :at WHERE member_guid = 'MBR-u5'",
        at=bench.stored(NOW),
    )
    await retain(bench.runtime, NOW + timedelta(days=90))
    assert (await stands())["reconnected", "back"] == 1
    await retain(bench.runtime, NOW + timedelta(days=110))
    assert "MBR-u5" not in {row["member_guid"] for row in (await everything(database))["reconnections"]}
    assert (await stands())["reconnected", "back"] == 1


async def test_days_that_were_counted_while_the_clock_stood_ahead_are_counted_again(bench_for: Any) -> None:
    bench = await bench_for()
    told = Histories()
    told.reconnection("a", 3, 0.2)
    await told.write(bench.runtime.database)
    await retain(bench.runtime, NOW + timedelta(days=30))
    more = Histories(ids=iter(range(100, 200)))
    more.reconnection("b", 3, 0.1)
    await more.write(bench.runtime.database)
    await retain(bench.runtime, NOW)
    await retain(bench.runtime, NOW + timedelta(days=2))
    assert sum(_sums(await StandingStore(bench.runtime.database).read(NOW))[0].values()) == 2


def a_crowd(rng: random.Random, size: int) -> Histories:
    """Users with histories of all kinds, most of them ended long ago."""
    told = Histories()
    for number in range(size):
        user = f"c{number}"
        names = [f"{user}{letter}" for letter in "abc"[: rng.randint(1, 3)]]
        told.user(user, *names, connection_status=rng.choice(["DENIED", "CONNECTED"]))
        ids = []
        for name in names:
            opened = rng.uniform(20, 900)
            for _ in range(rng.randint(1, 3)):
                closed = opened - rng.uniform(1, 60)
                if closed < 1:
                    ids.append(told.reconnection(name, opened, user=user))
                    break
                state = rng.choice(["reconnected", "exhausted", "gone", "cancelled", "unsupported", "quarantined"])
                rests = {"exhausted": NEVER, "gone": NEVER, "quarantined": NEVER, "unsupported": ago(closed - 28)}.get(
                    state
                )
                ids.append(
                    told.reconnection(
                        name,
                        opened,
                        closed,
                        user=user,
                        state=state,
                        reopen_at=rng.choice([rests, None]),
                        notified_at=ago(opened),
                    )
                )
                opened = closed - rng.uniform(0, 40)
                if opened < 2:
                    break
        by_id = {row["id"]: row for row in told.rows[reconnections]}
        for step in range(rng.randint(0, 5)):
            about = rng.sample(ids, rng.randint(1, min(3, len(ids))))
            oldest = min(by_id[id_]["closed_at"] or NOW for id_ in about)
            sent = (NOW - oldest) / timedelta(days=1) + rng.uniform(0, 20)
            letter = told.message(user, about, sent, step=step)
            link = told.link(user, sent, days=40, of=letter)
            for _ in range(rng.randint(0, 2)):
                told.click(link, rng.choice(about), max(sent - rng.uniform(0, 30), 0.1))
    return told


@pytest.mark.each_database
async def test_kills_and_others_at_work_leave_whole_histories(
    bench_for: Any, database_url: str, tmp_path: Path
) -> None:
    bench = await bench_for(retention_days=100)
    database, rng = bench.runtime.database, random.Random(5)
    crowd = a_crowd(rng, 40)
    await crowd.write(database)
    before = await everything(database)
    cut = ago(100)
    while await RetentionStore(database).count_a_day(NOW):
        pass
    retrying, out = RetryStore(database), tmp_path / "out"
    names = sorted({row["member_guid"] for row in before["reconnections"]})
    requeued: set[str] = set()
    command = ["tests.integration.store.deleting", [database_url, NOW.isoformat(), cut.isoformat(), URI_KEY]]
    environment = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR", "LANG") if name in os.environ}
    for kill_after in (*(rng.randint(1, 4) for _ in range(3)), None):
        with out.open("wb") as file:
            process = await asyncio.to_thread(
                forked.Process, *command, tmp_path, environment, file.fileno(), sys.stderr.fileno()
            )
        try:
            await asyncio.to_thread(wait_until, out.read_bytes, what="its start")
            while process.poll() is None:
                some = rng.sample(names, 2)
                await retrying.reconnections(["exhausted"], some, now=NOW)
                requeued.update(some)
                await asyncio.sleep(0.02)  # otherwise SQLite's only lock is never free for the other process
                if kill_after is not None and out.read_bytes().count(b"batch") >= kill_after:
                    process.send_signal(signal.SIGKILL)
                    break
        finally:
            process.kill()
            process.wait()
        assert await dangling(database) == []
    assert b"over" in out.read_bytes()
    after = await everything(database)
    now_there = {row["id"]: row for row in after["reconnections"]}
    items = {(row["notification_id"], row["reconnection_id"]) for row in after["notification_reconnections"]}
    was = {(row["notification_id"], row["reconnection_id"]) for row in before["notification_reconnections"]}
    for row in before["reconnections"]:
        id_, there = row["id"], now_there.get(row["id"])
        is_old = row["closed_at"] is not None and row["closed_at"] < cut and row["member_guid"] not in requeued
        hanging = {item for item in items if item[1] == id_}
        if there is None or there["emptied_at"] is not None:  # deleted or emptied: then completely, and only if old
            assert row["closed_at"] is not None
            assert row["closed_at"] < cut
            assert hanging == set()
            assert id_ not in {each["reconnection_id"] for each in (*after["windows"], *after["clicks"])}
        else:
            assert not is_old, row
            theirs = {item for item in was if item[1] == id_}
            # A reconnection may have been emptied and requeued afterwards.
            assert hanging == theirs or (row["member_guid"] in requeued and hanging == set())
        if is_old and (row["reopen_at"] is None or row["reopen_at"] <= NOW):
            assert there is None
    assert {row["id"] for row in after["notifications"]} >= {item[0] for item in items}


async def _what_decides(bench: Any) -> dict[str, Any]:
    """Everything that the stages decide from histories, by the queries that they use."""
    database = bench.runtime.database
    sweeping = SweepStore(database, statuses=STATUSES, notice_days=(14, 7))
    rows = await everything(database)
    span = max(cap.within for cap in bench.runtime.settings.message_caps)
    people = {row["user_guid"] for row in rows["members"]}
    loaded = await FetchStore(database).users(people, since=NOW - span)
    pages = {}
    for row in rows["links"]:
        if row["expires_at"] > NOW + timedelta(hours=1):  # other links may expire during the test
            page = await LinkPageStore(database).read(row["token_hash"])
            pages[row["id"]] = None if page is None else [(b.reconnection_id, b.state) for b in page[1]]
    return {
        "opened": {
            row["member_guid"]: await sweeping.would_open_for(row["member_guid"], NOW) for row in rows["members"]
        },
        "all": await sweeping.would_open(NOW),
        "users": {guid: (sorted(user.sent), user.contact, user.message_under_way) for guid, user in loaded.items()},
        "bursts": sorted(map(repr, await OutageStore(database).busy_institutions(NOW, at_least=1))),
        "pages": pages,
        "open": sorted(row["id"] for row in rows["reconnections"] if row["closed_at"] is None),
    }


_moments = st.floats(0.1, 60) | st.floats(0.1, 700)
_ended = st.fixed_dictionaries(
    {
        "closed": _moments,
        "lasted": st.floats(0, 50),
        "state": st.sampled_from(["reconnected", "exhausted", "gone", "cancelled", "unsupported", "quarantined"]),
        "reopen": st.sampled_from(["never", "never", "weeks", "no"]),
        "reason": st.sampled_from(["connection_status", "connection_status", "expires_soon"]),
        "outcome": st.sampled_from(["x", "expiry_moved"]),
        "message": st.none()
        | st.fixed_dictionaries({"before": st.floats(-0.01, 5), "link_days": st.sampled_from([1, 40, 300])}),
    }
)
_histories = st.lists(
    st.fixed_dictionaries(
        {
            "user": st.integers(0, 2),
            "status": st.sampled_from(["DENIED", "CONNECTED"]),
            "revoked": st.none() | _moments,
            "expires": st.none() | _moments | st.floats(-20, 0),
            "ended": st.lists(_ended, min_size=1, max_size=4),
            "is_open": st.sampled_from([False, False, False, True]),
            "link_alone": st.none() | st.tuples(_moments, st.sampled_from([1, 40, 300])),
        }
    ),
    min_size=2,
    max_size=5,
)


#: Members that are still `DENIED`. Their only reconnection blocks reopening.
_AT_REST: list[dict[str, Any]] = [
    {
        "user": 0, "status": "DENIED", "revoked": None, "expires": None, "is_open": False, "link_alone": None,
        "ended": [
            {
                "closed": 500.0, "lasted": 9.0, "state": state, "reopen": "never", "reason": "connection_status", "outcome": "x",
                "message": {"before": 3.0, "link_days": 40},
            }
        ],
    }
    for state in ("gone", "exhausted")
]  # fmt: skip


#: A member that broke twice. Its first message left shortly after that reconnection had ended, and the link still works.
_TOLD_LATE: list[dict[str, Any]] = [
    {
        "user": 0, "status": "DENIED", "revoked": None, "expires": None, "is_open": False, "link_alone": None,
        "ended": [
            {"closed": closed, "lasted": 0.0, "state": "reconnected", "reopen": "no", "reason": "connection_status", "outcome": "x", "message": message}
            for closed, message in ((1.0, None), (62.0, {"before": -0.0078125, "link_days": 300}))
        ],
    },
    *_AT_REST[:1],
]  # fmt: skip


#: A user's link, and a notice that ended after it was made. The member's older reconnection may be deleted; no page shows it.
_ENDED = {"closed": 1.0, "lasted": 0.0, "state": "reconnected", "reopen": "no", "reason": "connection_status", "outcome": "x", "message": None}  # fmt: skip
_NOTICE_SINCE = [
    {
        "user": 0, "status": "CONNECTED", "revoked": None, "expires": None, "is_open": False, "link_alone": (1.5, 40),
        "ended": [
            _ENDED | {"state": "cancelled", "reason": "expires_soon"},
            _ENDED | {"closed": 62.0},
        ],
    }
]  # fmt: skip


@pytest.mark.timeout(3_600 if LONG else 180)
async def test_what_decides_does_not_change_by_a_deletion(bench_for: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = await bench_for(message_caps="2/7d,5/60d", expiry_notice_days="14,7", retention_days=1)
    loop, database = asyncio.get_running_loop(), bench.runtime.database
    monkeypatch.setattr(retention, "BATCH", 2)
    monkeypatch.setattr("worker.stages.retention.BATCH", 2)
    deleted = 0

    async def tried(drawn: list[dict[str, Any]], days: int) -> None:
        nonlocal deleted
        async with database.engine.begin() as connection:
            for table in reversed(metadata.sorted_tables):
                await connection.execute(delete(table))
        told = Histories()
        for user in {each["user"] for each in drawn}:
            told.user(f"u{user}", *[f"m{n}" for n, each in enumerate(drawn) if each["user"] == user])
        for number, each in enumerate(drawn):
            member = next(row for row in told.rows[members] if row["member_guid"] == f"MBR-m{number}")
            member["connection_status"] = each["status"]
            for column, name in (("token_revoked_at", "revoked"), ("token_expires_at", "expires")):
                member[column] = None if each[name] is None else ago(each[name])
            user = f"u{each['user']}"
            for ended in sorted(each["ended"], key=lambda e: -e["closed"]):
                closed, reopen = ended["closed"], ended["reopen"]
                id_ = told.reconnection(
                    f"m{number}", closed + ended["lasted"], closed, user=user, state=ended["state"], reason=ended["reason"], outcome=ended["outcome"],
                    reopen_at={"never": NEVER, "weeks": ago(closed - 28), "no": None}[reopen],
                )  # fmt: skip
                if ended["message"]:
                    letter = told.message(user, [id_], closed + ended["message"]["before"])
                    told.link(user, closed + ended["message"]["before"], days=ended["message"]["link_days"], of=letter)
            if each["is_open"]:
                told.reconnection(f"m{number}", 500, user=user)
            if each["link_alone"]:
                told.link(user, each["link_alone"][0], days=each["link_alone"][1])
        await told.write(database)
        settings_ = bench.runtime.settings.model_copy(update={"retention_days": days})
        before, count = await _what_decides(bench), len((await everything(database))["reconnections"])
        monkeypatch.setattr(bench.runtime, "settings", settings_)
        for _ in range(3):
            await retain(bench.runtime, NOW)
        assert await _what_decides(bench) == before
        deleted += count - len((await everything(database))["reconnections"])

    @example(drawn=_AT_REST, days=1)
    @example(drawn=_TOLD_LATE, days=1)
    @example(drawn=_NOTICE_SINCE, days=1)
    @given(drawn=_histories, days=st.sampled_from([1, 20, 100, 400]))
    @settings(
        deadline=None,
        max_examples=400 if LONG else 12,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
    )
    def example_of(drawn: list[dict[str, Any]], days: int) -> None:
        asyncio.run_coroutine_threadsafe(tried(drawn, days), loop).result()

    await asyncio.to_thread(example_of)
    assert deleted > 0


def test_what_decides_is_kept_however_short_the_setting() -> None:
    settings_ = make_settings(message_caps="1/24h,3/7d", expiry_notice_days="30,7")
    age = age_of_deletion(1, notice_days=settings_.expiry_notice_days, caps=settings_.message_caps)
    assert age == timedelta(days=31)
    assert age_of_deletion(7, notice_days=(), caps=settings_.message_caps) == timedelta(days=15, hours=1)
    assert age_of_deletion(400, notice_days=(), caps=()) == timedelta(days=400)

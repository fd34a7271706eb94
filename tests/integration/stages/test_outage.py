"""When many members of one institution break at once, their messages are held and then released gradually."""

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import text

from worker.policy.outage import RAMP, WINDOW
from worker.stages.fetch import fetch
from worker.stages.sweep import sweep
from worker.store.outages import OutageStore
from worker.store.pauses import PauseStore
from worker.store.transactions.fetch import FetchStore


async def _past(bench: Any, code: str, *, reconnections: int, days: int) -> None:
    """Write ended reconnections of an institution, spread evenly over the last ``days`` days."""
    now = bench.runtime.clock.now()
    ended = [
        {"m": f"MBR-past-{code}-{number}", "u": f"USR-past-{code}-{number}", "c": code,
         "a": bench.stored(now - timedelta(days=days * (number + 1) / (reconnections + 1)))}
        for number in range(reconnections)
    ]  # fmt: skip
    async with bench.runtime.database.engine.begin() as connection:
        await connection.execute(
            text(
                "INSERT INTO reconnections (member_guid, user_guid, institution_code, state, reason, broken_since, opened_at, closed_at) "
                "VALUES (:m, :u, :c, 'reconnected', 'connection_status', :a, :a, :a)"
            ),
            ended,
        )


async def _break(bench: Any, name: str, members: int, *, of: str | None = None) -> None:
    await bench.members(
        *(f"{name}-{number}" for number in range(members)), connection_status="DENIED", institution_code=of or name
    )


async def test_a_burst_far_above_normal_is_held_and_the_others_go_on(bench_for: Any, sandbox_for: Any) -> None:
    async with sandbox_for({"cobalt-0": ["ok"]}) as sandbox:
        bench = await bench_for(**sandbox.settings)
        await _past(bench, "alder", reconnections=20, days=10)
        await _break(bench, "alder", 60)
        await _break(bench, "cobalt", 1)
        await sweep(bench.runtime)
        pauses = await PauseStore(bench.runtime.database).all()
        assert [pause.scope for pause in pauses] == ["outage:alder"]
        assert pauses[0].reason.startswith("60 of its members broke within an hour, its normal is 1.0")
        await fetch(bench.runtime)
        states = await bench.states()
        assert states["MBR-cobalt-0"] == "ready"
        assert all(states[f"MBR-alder-{number}"] == "due" for number in range(60))


async def test_when_the_burst_is_over_messages_go_out_on_a_ramp(bench_for: Any) -> None:
    bench = await bench_for()
    await _past(bench, "alder", reconnections=20, days=10)
    await _break(bench, "alder", 100)
    await sweep(bench.runtime)
    began = bench.runtime.clock.now()
    await bench.sql("UPDATE pauses SET probe_at = '2020-01-01 00:00:00'")
    await bench.sql(
        "UPDATE reconnections SET opened_at = :at WHERE state = 'due'",
        at=bench.stored(began - WINDOW - timedelta(minutes=1)),
    )
    await sweep(bench.runtime)
    assert await PauseStore(bench.runtime.database).all() == []
    store = FetchStore(bench.runtime.database)
    ends_of_thirds = [began + RAMP * third / 3 + timedelta(seconds=30) for third in (1, 2, 3)]
    counts = [await store.due(moment, at_most=1000) for moment in ends_of_thirds]
    assert 8 <= counts[0] <= 13
    assert 38 <= counts[1] <= 43
    assert counts[2] == 100


async def test_after_a_false_alarm_its_breaks_hold_nothing_and_a_burst_two_hours_later_does(bench_for: Any) -> None:
    bench = await bench_for()
    await _past(bench, "alder", reconnections=20, days=10)
    await _past(bench, "birch", reconnections=20, days=10)
    for code in ("alder", "birch"):
        await _break(bench, code, 60)
    await sweep(bench.runtime)
    now, pauses = bench.runtime.clock.now(), PauseStore(bench.runtime.database)
    assert await OutageStore(bench.runtime.database).release("alder", now, false_alarm=True) == 60
    await _break(bench, "alder-2", 60, of="alder")  # the file that named them was not yet read to its end
    await sweep(bench.runtime)
    assert [pause.scope for pause in await pauses.all()] == ["outage:birch"]
    assert await FetchStore(bench.runtime.database).due(now + RAMP, at_most=1000) == 120

    outages, opened = (
        OutageStore(bench.runtime.database),
        "UPDATE reconnections SET opened_at = :at, broken_since = :at",
    )
    await bench.sql(f"{opened} WHERE state = 'due'", at=bench.stored(now + WINDOW))
    bursts = await outages.busy_institutions(now + 1.5 * WINDOW, at_least=50)
    assert {burst.institution_code: burst.breaks for burst in bursts} == {"birch": 60}
    await bench.sql(f"{opened} WHERE state = 'due'", at=bench.stored(now + WINDOW + timedelta(seconds=1)))
    bursts = await outages.busy_institutions(now + 1.5 * WINDOW, at_least=50)
    assert {burst.institution_code: burst.breaks for burst in bursts} == {"alder": 120, "birch": 60}


async def test_a_later_false_alarm_counts_from_its_own_moment_and_is_forgotten_when_it_is_over(bench_for: Any) -> None:
    bench = await bench_for()
    outages, now = OutageStore(bench.runtime.database), bench.runtime.clock.now()

    async def noted() -> dict[str, Any]:
        rows = await bench.sql("SELECT institution_code, until FROM false_alarms")
        return {
            code: until if isinstance(until, datetime) else datetime.fromisoformat(f"{until}+00:00")
            for code, until in rows
        }

    await outages.release("alder", now, false_alarm=True)
    await outages.release("alder", now + WINDOW, false_alarm=True)
    assert await noted() == {"alder": now + 2 * WINDOW}
    await outages.release("birch", now + 3 * WINDOW, false_alarm=True)
    assert await noted() == {"birch": now + 4 * WINDOW}


async def test_a_sweep_that_counted_before_the_false_alarm_does_not_begin_the_hold_again(bench_for: Any) -> None:
    bench = await bench_for()
    outages, now = OutageStore(bench.runtime.database), bench.runtime.clock.now()
    pauses = PauseStore(bench.runtime.database)
    assert await outages.hold("alder", "a burst", now=now)
    assert not await outages.hold("alder", "a burst", now=now)  # it is extended
    await outages.release("alder", now, false_alarm=True)
    assert not await outages.hold("alder", "a burst", now=now)
    assert await outages.hold("birch", "a burst", now=now)
    assert [pause.scope for pause in await pauses.all()] == ["outage:birch"]


async def test_those_who_still_wait_for_their_grace_get_the_ramp_after_it(bench_for: Any) -> None:
    bench = await bench_for(notify_after="15m")
    await _past(bench, "alder", reconnections=20, days=10)
    await _break(bench, "alder", 100)
    await sweep(bench.runtime)
    now, store = bench.runtime.clock.now(), FetchStore(bench.runtime.database)
    assert await OutageStore(bench.runtime.database).release("alder", now, false_alarm=True) == 100
    grace = timedelta(minutes=15)
    ends_of_thirds = [now + grace + RAMP * third / 3 + timedelta(seconds=30) for third in (0, 1, 2, 3)]
    counts = [await store.due(moment, at_most=1000) for moment in ends_of_thirds]
    assert counts[0] <= 3
    assert 8 <= counts[1] <= 13
    assert 38 <= counts[2] <= 43
    assert counts[3] == 100


async def test_an_institution_whose_normal_is_not_known_is_not_held(bench_for: Any) -> None:
    bench = await bench_for()
    await _break(bench, "alder", 80)
    await sweep(bench.runtime)
    assert await PauseStore(bench.runtime.database).all() == []


async def test_a_busy_institution_on_a_normal_day_is_not_held(bench_for: Any) -> None:
    bench = await bench_for()
    await _past(bench, "alder", reconnections=1500, days=4)  # 15 an hour
    await _break(bench, "alder", 60)
    await sweep(bench.runtime)
    assert await PauseStore(bench.runtime.database).all() == []


async def test_each_institution_is_measured_by_its_own_past(bench_for: Any) -> None:
    bench = await bench_for()
    await _past(bench, "alder", reconnections=20, days=10)
    await _past(bench, "birch", reconnections=1500, days=4)
    for code in ("alder", "birch", "cobalt"):
        await _break(bench, code, 60)
    await sweep(bench.runtime)
    assert [pause.scope for pause in await PauseStore(bench.runtime.database).all()] == ["outage:alder"]


async def _every_night(bench: Any, code: str, *, breaks: int, nights: int) -> None:
    for night in range(1, nights + 1):
        at = bench.stored(bench.runtime.clock.now() - timedelta(days=night))
        async with bench.runtime.database.engine.begin() as connection:
            await connection.execute(
                text(
                    "INSERT INTO reconnections (member_guid, user_guid, institution_code, state, reason, broken_since, opened_at, closed_at) "
                    "VALUES (:m, :m, :c, 'reconnected', 'connection_status', :a, :a, :a)"
                ),
                [{"m": f"MBR-{code}-{night}-{number}", "c": code, "a": at} for number in range(breaks)],
            )


async def test_a_file_that_names_as_many_members_every_night_is_no_outage(bench_for: Any) -> None:
    bench = await bench_for()
    await _every_night(bench, "alder", breaks=60, nights=13)
    await _every_night(bench, "birch", breaks=4, nights=13)
    for code in ("alder", "birch"):
        await _break(bench, code, 60)
    await sweep(bench.runtime)
    assert [pause.scope for pause in await PauseStore(bench.runtime.database).all()] == ["outage:birch"]


async def test_what_broke_in_the_course_of_a_day_is_no_outage_when_it_is_found_at_once(bench_for: Any) -> None:
    bench = await bench_for()
    now = bench.runtime.clock.now()
    for code in ("alder", "birch"):
        await _past(bench, code, reconnections=20, days=10)
    for number in range(60):
        in_the_day, within_the_hour = (bench.moment(now - timedelta(minutes=m)) for m in (20 * number, number / 2))
        await bench.member(f"alder-{number}", token_revoked_at=in_the_day)
        await bench.member(f"birch-{number}", token_revoked_at=within_the_hour, institution_code="birch")
    await sweep(bench.runtime)
    assert [pause.scope for pause in await PauseStore(bench.runtime.database).all()] == ["outage:birch"]

"""The runner at work: many jobs at once, and no job delays another."""

import asyncio
import random
from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from tests.unit.stages.desk import Desk, make_runner, until
from worker.stages import runner as module
from worker.stages.runner import Batch, summary

pytestmark = pytest.mark.usefixtures("nothing_is_left_behind")


@pytest.mark.parametrize("claims_at_once", [1, 3])
@pytest.mark.parametrize(("slots", "batch"), [(1, 1), (1, 10), (7, 10), (10, 7), (200, 200), (3, 1_000)])
async def test_all_the_work_is_done_and_never_more_than_the_slots_at_once(
    slots: int, batch: int, claims_at_once: int
) -> None:
    desk = Desk(150, ticks=lambda job: job % 5)
    runner = make_runner(desk, slots=slots, batch=batch, claims_at_once=claims_at_once)
    await runner.run()
    assert desk.peak <= slots
    assert desk.results == dict.fromkeys(range(150), "done")
    assert desk.everything_ended_once()
    assert (runner.drained, runner.has_more, desk.released) == (True, False, [])


@pytest.mark.parametrize(("slots", "batch"), [(3, 10), (10, 3), (40, 40)])
@pytest.mark.usefixtures("endless")
async def test_every_slot_is_used_however_small_the_batches(slots: int, batch: int) -> None:
    desk = Desk(50)
    desk.hold(*range(50))
    run = asyncio.create_task(make_runner(desk, slots=slots, batch=batch).run())
    await until(lambda: len(desk.working) == slots)
    desk.let_go()
    await run
    assert desk.peak == slots


@pytest.mark.usefixtures("endless")
async def test_batches_are_claimed_side_by_side_once_one_was_full_and_no_further_ahead_than_there_are_slots() -> None:
    desk = Desk(10_000)
    desk.hold(*range(10_000))
    answer = desk.slow["claim"] = asyncio.Event()
    runner = make_runner(desk, slots=40, batch=10, claims_at_once=3)
    run = asyncio.create_task(runner.run())
    await until(lambda: desk.calls["claim"] == 1)
    for _ in range(100):
        await asyncio.sleep(0)
    assert desk.calls["claim"] == 1  # only one claim at first, as there may be little to do
    answer.set()
    await until(lambda: len(desk.working) == 40)
    answer.clear()
    desk.let_go(*range(40))
    await until(lambda: desk.calls["claim"] >= len(desk.claimed) // 10 + 3)
    assert desk.calls["claim"] == len(desk.claimed) // 10 + 3
    answer.set()
    runner.stopping.set()
    desk.let_go()
    await run
    assert desk.everything_ended_once()


@pytest.mark.usefixtures("endless")
async def test_when_one_of_several_claims_fails_what_the_others_take_goes_back() -> None:
    desk = Desk(1_000)
    desk.fails["claim", 2] = OSError("no database")
    with pytest.raises(OSError, match="no database"):
        await make_runner(desk, slots=40, batch=10, claims_at_once=4).run()
    assert desk.calls["claim"] >= 4
    assert desk.everything_ended_once()
    assert len(desk.claimed) > 20


@pytest.mark.usefixtures("endless")
async def test_a_slot_that_falls_free_is_taken_at_once() -> None:
    desk = Desk(8)
    desk.hold(*range(8))
    run = asyncio.create_task(make_runner(desk, slots=3).run())
    await until(lambda: desk.working == {0, 1, 2})
    desk.let_go(1)
    await until(lambda: desk.working == {0, 2, 3})
    desk.let_go()
    await run
    assert desk.begun == list(range(8))


async def test_one_slow_job_does_not_hold_up_the_others() -> None:
    desk = Desk(100)
    desk.hold(0)
    run = asyncio.create_task(make_runner(desk).run())
    await until(lambda: len(desk.results) == 99)
    assert desk.working == {0}
    assert not run.done()
    desk.let_go()
    await run
    assert desk.results[0] == "done"


@pytest.mark.usefixtures("endless")
async def test_the_clock_is_waited_for_by_results_without_company_only() -> None:
    desk = Desk(500, ticks=lambda job: job % 3)
    async with asyncio.timeout(60):
        await make_runner(desk).run()
    assert desk.everything_ended_once()


@pytest.mark.usefixtures("endless")
async def test_a_full_batch_of_results_is_settled_at_once() -> None:
    desk = Desk(6)
    desk.hold(0)
    run = asyncio.create_task(make_runner(desk, batch=5).run())
    await until(lambda: desk.settled)
    assert set(desk.results) == {1, 2, 3, 4, 5}
    desk.let_go()
    await run


async def test_results_wait_for_company_but_not_for_long() -> None:
    desk, loop = Desk(5), asyncio.get_running_loop()
    desk.hold(0)
    started = loop.time()
    run = asyncio.create_task(make_runner(desk).run())
    await until(lambda: len(desk.results) == 4)
    assert loop.time() - started < 10 * module.SETTLE_EVERY
    assert len(desk.settled) <= 2
    desk.let_go()
    await run


async def test_a_slow_database_does_not_hold_up_the_work() -> None:
    desk = Desk(60)
    desk.slow["settle"] = asyncio.Event()
    run = asyncio.create_task(make_runner(desk).run())
    await until(lambda: len(desk.begun) == 60 and not desk.working)
    assert desk.calls["settle"] == 1
    desk.slow["settle"].set()
    await run
    assert desk.everything_ended_once()


async def test_it_claims_ahead_of_need_but_never_much() -> None:
    desk, rng, most = Desk(300), random.Random(1), 0
    desk.ticks = lambda _: rng.randrange(3)

    async def claim(n: int) -> Batch[int]:
        nonlocal most
        found = await Desk.claim(desk, n)
        most = max(most, len(desk.claimed) - len(desk.begun))
        return found

    desk.claim = claim  # type: ignore[method-assign]
    await make_runner(desk, slots=3, batch=20).run()
    assert 20 < most <= 30


async def test_a_crash_is_a_result_and_takes_nobody_along() -> None:
    desk = Desk(20)
    desk.raises = {3: ValueError("ana@mail.example"), 7: asyncio.CancelledError(), 19: KeyError("state=hunter2")}
    with capture_logs() as logs:
        await make_runner(desk).run()
    assert {job for job, result in desk.results.items() if result == "crashed"} == {3, 7, 19}
    assert desk.everything_ended_once()
    assert [(entry["event"], entry["error"]) for entry in logs] == [
        ("job_crashed", "ValueError"),
        ("job_crashed", "CancelledError"),
        ("job_crashed", "KeyError"),
    ]
    assert logs[0]["where"].startswith("desk.py:")
    assert "mail.example" not in str(logs)
    assert "hunter2" not in str(logs)


@pytest.mark.parametrize(("due", "claims"), [(0, 1), (3, 1), (9, 1), (10, 2), (25, 3)])
async def test_a_claim_that_takes_fewer_than_it_might_was_the_last(due: int, claims: int) -> None:
    desk = Desk(due)
    runner = make_runner(desk)
    await runner.run()
    assert runner.drained
    assert not runner.has_more
    assert desk.calls["claim"] == claims
    assert len(desk.results) == due


async def test_it_claims_on_where_all_that_was_taken_was_settled_at_once() -> None:
    desk = Desk(0)
    batches = iter(
        [Batch((), more_may_be_due=True), Batch((1, 2), more_may_be_due=True), Batch((), more_may_be_due=False)]
    )

    async def claim(n: int) -> Batch[int]:
        return next(batches)

    desk.claim = claim  # type: ignore[method-assign]
    runner = make_runner(desk)
    await runner.run()
    assert desk.results == {1: "done", 2: "done"}
    assert runner.drained


async def test_after_its_time_it_claims_no_more_but_finishes_what_it_has() -> None:
    desk, loop = Desk(10**9), asyncio.get_running_loop()
    desk.hold(2)
    over: list[int] = []

    def time_is_over() -> None:
        over.append(len(desk.claimed))
        desk.let_go()

    # Long after its time, so that a claim that began before the end has been answered.
    loop.call_later(0.5, time_is_over)
    runner = make_runner(desk, seconds=0.1, slots=2)
    await runner.run()
    assert over == [len(desk.claimed)]
    assert set(desk.results) == set(desk.claimed)
    assert (runner.drained, runner.has_more, desk.released) == (False, True, [])


@pytest.mark.usefixtures("brisk")
async def test_the_leases_of_what_takes_long_are_renewed_begun_or_not() -> None:
    desk = Desk(6)
    desk.hold(0, 1)
    run = asyncio.create_task(make_runner(desk, slots=2, renew_every=0.02).run())
    await until(lambda: len(desk.renewed) >= 3)
    assert all(set(jobs) == set(range(6)) for jobs in desk.renewed)
    desk.let_go(0)
    await until(lambda: desk.renewed[-1] == [1])
    desk.let_go(1)
    await run


async def test_what_is_done_in_time_is_not_renewed() -> None:
    desk = Desk(50)
    await make_runner(desk).run()
    assert desk.renewed == []


def test_a_report_is_one_short_line() -> None:
    assert summary({"retry": 12, "ready": 3980}, timedelta(seconds=20.14)) == "ready 3980, retry 12, 20.1 s"
    assert summary({}, timedelta(0)) == "0.0 s"

"""However a run ends, each job it took ends once: settled or handed back."""

import asyncio
import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from tests.unit.stages.desk import Desk, Done, make_runner, until
from worker.stages import runner as module

pytestmark = pytest.mark.usefixtures("nothing_is_left_behind")


@pytest.mark.usefixtures("endless")
async def test_a_stop_hands_back_at_once_what_was_not_begun_and_finishes_the_rest() -> None:
    desk = Desk(100)
    desk.hold(*range(100))
    runner = make_runner(desk, slots=2)
    run = asyncio.create_task(runner.run())
    await until(lambda: desk.working == {0, 1})
    runner.stopping.set()
    desk.let_go(0)  # its slot becomes free before the runner notices the stop
    await until(lambda: desk.released)
    assert desk.handed_back == set(range(2, 10))
    assert not run.done()
    desk.let_go(1)
    await run
    assert desk.results == {0: "done", 1: "done"}
    assert desk.begun == [0, 1]
    assert desk.calls["claim"] == 1
    assert runner.has_more


async def test_what_a_claim_brings_after_the_stop_goes_back_untouched() -> None:
    desk = Desk(100)
    desk.slow["claim"] = asyncio.Event()
    runner = make_runner(desk)
    run = asyncio.create_task(runner.run())
    await until(lambda: desk.calls["claim"])
    runner.stopping.set()
    desk.slow["claim"].set()
    await run
    assert desk.handed_back == set(range(10))
    assert desk.begun == []


async def test_a_runner_that_is_stopped_before_it_begins_claims_nothing() -> None:
    desk = Desk(10)
    runner = make_runner(desk)
    runner.stopping.set()
    await runner.run()
    assert desk.claimed == []


@pytest.mark.usefixtures("brisk")
async def test_after_finish_seconds_what_still_goes_on_is_cancelled_and_handed_back() -> None:
    desk = Desk(6)
    desk.hold(*range(6))
    runner = make_runner(desk, slots=3, finish_seconds=0.1)
    run = asyncio.create_task(runner.run())
    await until(lambda: len(desk.working) == 3)
    desk.let_go(1)
    await until(lambda: desk.results)
    runner.stopping.set()
    await run
    assert desk.results == {1: "done"}
    assert desk.handed_back == {0, 2, 3, 4, 5}
    assert desk.everything_ended_once()


@pytest.mark.usefixtures("brisk")
async def test_what_is_not_begun_long_after_the_last_claim_is_handed_back_and_leaves_a_successor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "BEGIN_SECONDS", 0.1)
    desk = Desk(10)
    desk.hold(*range(10))
    runner = make_runner(desk, slots=2, batch=20, seconds=0.1)
    run = asyncio.create_task(runner.run())
    await until(lambda: desk.released)
    assert (runner.drained, desk.handed_back, desk.working) == (True, set(range(2, 10)), {0, 1})
    assert not run.done()
    desk.let_go()
    await run
    assert desk.results == {0: "done", 1: "done"}
    assert runner.has_more


async def test_a_run_whose_loop_stood_still_to_its_end_says_that_more_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BEGIN_SECONDS", 0.0)
    monkeypatch.setattr(module, "ANSWER_SECONDS", 0.1)
    desk = Desk(6)
    desk.hold(0)
    work = desk.work

    async def block(job: int) -> Done:
        if job == 1:
            time.sleep(0.5)  # noqa: ASYNC251 - the standstill itself
        return await work(job)

    desk.work = block  # type: ignore[method-assign]
    runner = make_runner(desk, slots=6, seconds=0.1)
    await runner.run()
    assert desk.handed_back == {0}
    assert set(desk.results) == {1, 2, 3, 4, 5}
    assert runner.has_more


@pytest.mark.usefixtures("brisk")
async def test_a_job_that_outlasts_the_time_of_a_task_is_cancelled_and_handed_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "BEGIN_SECONDS", 0.0)
    monkeypatch.setattr(module, "ANSWER_SECONDS", 0.1)
    desk = Desk(6)
    desk.hold(0, 3)
    runner = make_runner(desk, slots=6, seconds=0.1)
    with capture_logs() as logs:
        await runner.run()
    assert desk.handed_back == {0, 3}
    assert set(desk.results) == {1, 2, 4, 5}
    assert runner.has_more
    assert [(line["event"], line["jobs"]) for line in logs] == [("out_of_time", 2)]


async def test_a_run_without_time_claims_nothing_and_leaves_a_successor() -> None:
    desk = Desk(6)
    runner = make_runner(desk, seconds=-1.0)
    await runner.run()
    assert (desk.claimed, runner.has_more) == ([], True)


@pytest.mark.usefixtures("endless")
async def test_a_halt_begins_nothing_more_and_leaves_no_successor() -> None:
    desk = Desk(100)
    runner = make_runner(desk, slots=3)
    desk.hold(0, 2)

    async def work(job: int) -> Done:
        if job == 1:
            runner.halted = True
        return await Desk.work(desk, job)

    desk.work = work  # type: ignore[method-assign]
    run = asyncio.create_task(runner.run())
    await until(lambda: desk.released)
    assert desk.handed_back == set(range(3, 10))
    desk.let_go()
    await run
    assert desk.begun == [0, 1, 2]
    assert set(desk.results) == {0, 1, 2}
    assert not runner.has_more


@pytest.mark.parametrize("call", ["claim", "settle", "renew"])
@pytest.mark.parametrize("number", [0, 1, 2])
@pytest.mark.usefixtures("brisk")
async def test_a_failing_call_is_raised_and_the_other_jobs_are_settled_or_handed_back(call: str, number: int) -> None:
    desk = Desk(100)
    desk.fails[call, number] = OSError("no database")
    desk.hold(4, 15)
    with pytest.raises(OSError, match="no database"):
        await make_runner(desk, renew_every=0.02).run()
    assert {4, 15} & set(desk.claimed) <= desk.handed_back
    assert desk.everything_ended_once()


@pytest.mark.usefixtures("endless")
async def test_where_nothing_can_be_handed_back_what_is_done_is_settled_all_the_same() -> None:
    desk = Desk(6)
    desk.hold(0, 1)
    desk.fails["release", 0] = OSError("no database")
    run = asyncio.create_task(make_runner(desk).run())
    await until(lambda: len(desk.begun) == 6 and desk.working == {0, 1})
    run.cancel()
    with pytest.raises(OSError, match="no database"):
        await run
    assert set(desk.results) == {2, 3, 4, 5}
    assert desk.everything_ended_once()


@pytest.mark.usefixtures("brisk")
async def test_a_hand_back_that_fails_is_tried_once_more_as_the_runner_leaves() -> None:
    desk = Desk(6)
    desk.hold(0, 1)
    desk.fails["release", 0] = OSError("no database")
    runner = make_runner(desk, slots=2)
    run = asyncio.create_task(runner.run())
    await until(lambda: desk.working == {0, 1})
    runner.stopping.set()
    with pytest.raises(OSError, match="no database"):
        await run
    assert [sorted(jobs) for jobs in desk.released] == [[2, 3, 4, 5], [0, 1, 2, 3, 4, 5]]


@pytest.mark.usefixtures("brisk")
async def test_where_no_result_can_be_settled_what_was_not_begun_is_handed_back_all_the_same() -> None:
    desk = Desk(100)
    desk.hold(3, 4, 5, 6)
    desk.fails = {("settle", n): OSError("no database") for n in range(100)}
    with pytest.raises(OSError, match="no database"):
        await make_runner(desk).run()
    assert desk.handed_back >= {3, 4, 5, 6, 7, 8, 9}
    assert desk.everything_ended_once()


@pytest.mark.usefixtures("brisk")
async def test_a_settlement_that_fails_while_the_runner_leaves_is_raised_too() -> None:
    desk = Desk(2)
    desk.hold(1)
    desk.slow["settle"] = asyncio.Event()
    desk.fails["settle", 0] = OSError("no database")
    runner = make_runner(desk, finish_seconds=0.05)
    run = asyncio.create_task(runner.run())
    await until(lambda: desk.settled)
    runner.stopping.set()
    await until(lambda: not desk.working)
    desk.slow["settle"].set()
    with pytest.raises(OSError, match="no database"):
        await run
    assert desk.handed_back == {1}


@pytest.mark.usefixtures("endless")
async def test_a_cancelled_runner_settles_what_is_done_and_hands_back_the_rest() -> None:
    desk = Desk(9)
    desk.hold(0, 1, 2, 3, 4)
    desk.hold(7)
    run = asyncio.create_task(make_runner(desk, slots=6).run())
    await until(lambda: desk.begun == list(range(8)) and desk.working == {0, 1, 2, 3, 4, 7})
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert set(desk.results) == {5, 6}
    assert desk.handed_back == {0, 1, 2, 3, 4, 7, 8}


@pytest.mark.parametrize("call", ["claim", "settle"])
@pytest.mark.usefixtures("brisk")
async def test_a_runner_cancelled_over_a_call_waits_for_its_answer(call: str) -> None:
    desk = Desk(20)
    desk.hold(19)
    desk.slow[call] = asyncio.Event()
    run = asyncio.create_task(make_runner(desk).run())
    await until(lambda: desk.calls[call])
    run.cancel()
    await asyncio.wait([run], timeout=0.05)
    assert not run.done()
    desk.slow[call].set()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert desk.claimed
    assert desk.everything_ended_once()


@pytest.mark.parametrize("call", ["settle", "release"])
@pytest.mark.usefixtures("brisk")
async def test_a_cancellation_that_meets_a_runner_on_its_way_out_lets_it_finish(call: str) -> None:
    desk = Desk(6)
    desk.hold(0, 1)
    runner = make_runner(desk, finish_seconds=0.0)
    run = asyncio.create_task(runner.run())
    await until(lambda: desk.working == {0, 1} and len(desk.results) == 4)
    desk.let_go(0)
    await until(lambda: desk.working == {1})
    desk.slow[call] = asyncio.Event()
    runner.stopping.set()
    await until(lambda: len(desk.settled) > 1 if call == "settle" else desk.released)
    run.cancel()
    desk.slow[call].set()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert set(desk.results) == {0, 2, 3, 4, 5}
    assert desk.handed_back == {1}


@pytest.mark.parametrize("ticks", range(12))
@pytest.mark.usefixtures("endless")
async def test_a_cancellation_is_never_lost_whatever_happens_beside_it(ticks: int) -> None:
    desk = Desk(2)
    desk.hold(0, 1)
    run = asyncio.create_task(make_runner(desk, batch=1).run())
    await until(lambda: desk.working == {0, 1} and desk.calls["claim"] == 3)
    desk.let_go(0)  # one result is a full batch, which wakes the runner
    for _ in range(ticks):
        await asyncio.sleep(0)
    run.cancel()
    await until(run.done)
    assert run.cancelled()
    assert desk.everything_ended_once()


@settings(deadline=None, max_examples=150)
@given(
    due=st.integers(0, 60),
    slots=st.integers(1, 12),
    batch=st.integers(1, 15),
    seed=st.integers(0, 10_000),
    crashes=st.sets(st.integers(0, 60), max_size=5),
    failure=st.none() | st.tuples(st.sampled_from(["claim", "settle", "renew"]), st.integers(0, 4)),
    end=st.sampled_from(["by itself", "stop", "cancel", "halt"]),
    after=st.integers(0, 60),
    finish_seconds=st.sampled_from([0.0, 0.02, 20.0]),
)
def test_every_job_ends_once_whatever_happens(
    *,
    due: int,
    slots: int,
    batch: int,
    seed: int,
    crashes: set[int],
    failure: tuple[str, int] | None,
    end: str,
    after: int,
    finish_seconds: float,
) -> None:
    async def scenario() -> None:
        rng = random.Random(seed)
        desk = Desk(due, ticks=lambda _: rng.choice([0, 1, 2, 5, 20]))
        desk.raises = {job: RuntimeError("crash") for job in crashes}
        if failure is not None:
            desk.fails[failure] = OSError("failed")
        runner = make_runner(desk, slots=slots, batch=batch, renew_every=0.003, finish_seconds=finish_seconds)
        run = asyncio.create_task(runner.run())
        for _ in range(after):
            await asyncio.sleep(0)
        if end == "cancel":
            run.cancel()
        elif end == "stop":
            runner.stopping.set()
        elif end == "halt":
            runner.halted = True
        async with asyncio.timeout(80):
            (how,) = await asyncio.gather(run, return_exceptions=True)
        assert how is None or isinstance(how, OSError | asyncio.CancelledError)
        assert desk.everything_ended_once()
        assert desk.peak <= slots
        assert len(desk.claimed) == due or how is not None or end != "by itself"

    before, module.SETTLE_EVERY = module.SETTLE_EVERY, 0.005
    try:
        with capture_logs():
            asyncio.run(scenario())
    finally:
        module.SETTLE_EVERY = before

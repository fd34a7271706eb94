"""A due sync is begun once, by the first task that runs. Beat's own message may be lost or not published."""

from collections.abc import Callable, Coroutine, Iterator
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Any

import pytest
from celery import Celery

from tests.conftest import Bench, make_settings
from tests.faults.servers import OwnValkey
from worker import beat, tasks
from worker.app import configuration
from worker.publishing import publish
from worker.runtime import Runtime
from worker.stages.sweep import sweep
from worker.stages.sync import is_due, sync
from worker.store.pauses import EVERYTHING, MX, PauseStore

DAILY = "0 3 * * *"
BANK = {f"{n:04}": {"connection_status": "CONNECTED"} for n in range(20)}
#: A list that sync does not believe: it is shorter by more than a tenth.
SHORTER = {"shrink": 0.3}


@pytest.fixture
def own_valkey() -> Iterator[OwnValkey]:
    valkey = OwnValkey()
    yield valkey
    valkey.kill()


@pytest.fixture
def app(own_valkey: OwnValkey, monkeypatch: pytest.MonkeyPatch) -> Iterator[Celery]:
    monkeypatch.setattr("worker.app.settings", lambda: make_settings(redis_url=own_valkey.url, sync_schedule=DAILY))
    app = Celery("syncs", set_as_current=False)
    app.add_defaults(configuration)
    yield app
    app.close()


class Clock:
    """The clock of beat's host."""

    def __init__(self, time: str) -> None:
        self.time = time

    def now(self, _zone: object) -> datetime:
        return datetime.fromisoformat(f"2026-11-27T{self.time}").replace(tzinfo=UTC)


async def work_off(app: Celery, bench: Bench) -> list[str]:
    """Run the tasks in the stage's queue as a worker does; return the report of each."""
    reports = []
    with app.connection_for_read() as connection, connection.channel() as channel:
        app.amqp.queues["sync"](channel).declare()
        while (message := channel.basic_get("sync", no_ack=True)) is not None:
            args, kwargs, _ = message.payload
            assert (args, kwargs) == ([], {})
            reports.append(await tasks.read_hints_and_list(bench.runtime))
    return reports


async def test_hints_and_the_list_share_the_time_of_one_task(bench_for: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, float] = {}

    def noting(name: str) -> Callable[..., Coroutine[Any, Any, str]]:
        async def stage(_runtime: Runtime, *, ends_at: float) -> str:
            given[name] = ends_at - started
            return ""

        return stage

    for name in ("hints", "sync"):
        monkeypatch.setattr(tasks, name, noting(name))
    for schedule, share in ((None, 30), (DAILY, 15)):
        bench = await bench_for(sync_schedule=schedule, run_seconds=30)
        started = monotonic()
        await tasks.read_hints_and_list(bench.runtime)
        assert given == pytest.approx({"hints": share, "sync": 30}, abs=5)


async def syncs(bench: Bench) -> int:
    return int(await bench.one("SELECT count(*) FROM syncs"))


async def began(bench: Bench, ago: timedelta) -> None:
    """Set the start of the last sync to ``ago`` before now."""
    at = bench.stored(bench.runtime.clock.now() - ago)
    await bench.sql("UPDATE syncs SET started_at = :at WHERE id = (SELECT max(id) FROM syncs)", at=at)


async def test_it_is_begun_by_the_task_of_a_webhook_that_beat_found_in_the_queue(
    app: Celery, bench_for: Any, sandbox_for: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(beat, "watch", lambda: None)
    monkeypatch.setattr(beat, "datetime", clock := Clock("02:59:58"))
    async with sandbox_for(BANK) as sandbox:
        bench = await bench_for(**sandbox.settings, sync_schedule=DAILY)
        await sync(bench.runtime)
        await began(bench, timedelta(days=1))
        publish(app, "sync", 1)
        scheduler = beat.MemorylessScheduler(app=app)
        scheduler.tick()
        clock.time = "03:00:01"
        scheduler.tick()
        (report,) = await work_off(app, bench)  # beat added none
        assert "list: finished" in report
        assert await syncs(bench) == 2
        publish(app, "sync", 1)
        assert "list" not in (await work_off(app, bench))[0]
        assert await syncs(bench) == 2


@pytest.mark.parametrize("scope", [MX, EVERYTHING])
async def test_a_pause_at_the_moment_of_the_schedule_only_puts_it_off(
    bench_for: Any, sandbox_for: Any, scope: str
) -> None:
    async with sandbox_for(BANK) as sandbox:
        bench = await bench_for(**sandbox.settings, sync_schedule=DAILY)
        pauses = PauseStore(bench.runtime.database)
        await pauses.set(scope, "http_401", now=bench.runtime.clock.now())
        assert await sync(bench.runtime) == "paused"
        assert await syncs(bench) == 0
        await pauses.lift(scope)
        bench.woken.clear()
        await sweep(bench.runtime)
        assert ("sync", 1) in bench.woken
        assert (await sync(bench.runtime)).startswith("finished")
        bench.woken.clear()
        await sweep(bench.runtime)
        assert "sync" not in dict(bench.woken)


async def test_a_sync_that_began_in_the_future_is_followed_by_one_now(bench_for: Any, sandbox_for: Any) -> None:
    async with sandbox_for(BANK) as sandbox:
        bench = await bench_for(**sandbox.settings, sync_schedule=DAILY)
        await sync(bench.runtime)
        await began(bench, -timedelta(seconds=30))  # after a failover, the new server's clock is 30 s behind
        assert not await is_due(bench.runtime, bench.runtime.clock.now())
        await began(bench, -timedelta(days=365))  # the clock was a year ahead then
        await sweep(bench.runtime)
        assert ("sync", 1) in bench.woken
        assert (await sync(bench.runtime)).startswith("finished")
        assert await sync(bench.runtime) == ""
        assert await syncs(bench) == 2


async def test_one_that_failed_is_not_repeated_before_the_next_moment_of_the_schedule(
    bench_for: Any, sandbox_for: Any
) -> None:
    async with sandbox_for(BANK) as sandbox:
        bench = await bench_for(**sandbox.settings, sync_schedule=DAILY)
        await sync(bench.runtime)
        await began(bench, timedelta(days=1))
        await sandbox.control(lists=SHORTER)
        assert "is not believed" in await sync(bench.runtime)
        assert await syncs(bench) == 2
        bench.woken.clear()
        for _ in range(3):
            await sweep(bench.runtime)
            assert await sync(bench.runtime) == ""
        assert "sync" not in dict(bench.woken)
        assert await syncs(bench) == 2
        await began(bench, timedelta(days=1))
        assert "is not believed" in await sync(bench.runtime)
        assert await syncs(bench) == 3

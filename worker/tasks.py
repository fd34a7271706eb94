"""One thin task per stage."""

import os
from collections.abc import Callable, Coroutine
from contextlib import suppress
from datetime import datetime
from threading import Lock
from typing import Any

import structlog
from celery import Task, signals

from worker import stopping
from worker.app import app
from worker.errors import StageFailed, WorkerError
from worker.overdue_sweeps import overdue
from worker.publishing import Waker
from worker.runtime import ProcessRuntime, Runtime
from worker.settings import settings
from worker.stages.deliver import deliver
from worker.stages.events import events
from worker.stages.fetch import fetch
from worker.stages.hints import hints
from worker.stages.sweep import sweep
from worker.stages.sync import is_wanted, sync
from worker.stages.verify import verify
from worker.store.events.queue import EventStore
from worker.store.pauses import PauseStore
from worker.store.syncs.store import SyncStore
from worker.store.transactions.deliver import DeliverStore
from worker.store.transactions.fetch import FetchStore
from worker.store.transactions.hints import HintStore
from worker.store.transactions.verify import VerifyStore
from worker.telemetry.scrubbing import cause_of, place_of

log = structlog.get_logger()

_processes: dict[int, ProcessRuntime] = {}
_making = Lock()


def process() -> ProcessRuntime:
    """The runtime of this process. It is made at the first call, which is always after the fork."""
    pid = os.getpid()
    with _making:  # the threads of a thread pool share one runtime
        if pid not in _processes:
            _processes.clear()  # a runtime inherited from the parent process must be neither used nor closed
            _processes[pid] = ProcessRuntime(settings(), wake=Waker(app))
            if (descriptor := stopping.watched()) is not None:
                _processes[pid].stop_when_readable(descriptor)
        return _processes[pid]


def run(stage: str, job: Callable[[Runtime], Coroutine[Any, Any, str]]) -> str:
    """Run a stage and return its report. Any error becomes a :class:`StageFailed` with a scrubbed text.

    Celery shows an exception's text in the log, in its events and in Flower.
    """
    try:
        report = process().run(job)
    except WorkerError as error:
        log.error("stage_failed", stage=stage, why=str(error))  # noqa: TRY400 - a traceback may quote a secret
        raise StageFailed(f"{stage}: {error}") from None
    except Exception as error:  # noqa: BLE001 - the text of any other exception may hold a secret
        log.error("stage_failed", stage=stage, why=cause_of(error), at=place_of(error.__traceback__))  # noqa: TRY400
        raise StageFailed(f"{stage}: {cause_of(error)}") from None
    log.info(stage, report=report)
    return report


class StageTask(Task):  # type: ignore[type-arg]  # it takes none at run time
    """The base class of all tasks."""

    Request = "worker.task_events:StageRequest"


@app.task(base=StageTask, name="reconnect.sweep")
def run_sweep(*, by_beat: bool = False) -> str:
    """One sweep. ``by_beat``: at most one sweep a minute, so that two beats cause one sweep."""

    async def job(runtime: Runtime) -> str:
        now: datetime = await runtime.set_clock()
        report = await sweep(runtime, slot=now.replace(second=0, microsecond=0) if by_beat else None)
        return "swept already" if report is None else report.summary

    return run("sweep", job)


@app.task(base=StageTask, name="reconnect.fetch")
def run_fetch() -> str:
    """One run of the fetch stage."""
    return run("fetch", fetch)


@app.task(base=StageTask, name="reconnect.deliver")
def run_deliver() -> str:
    """One run of the deliver stage."""
    return run("deliver", deliver)


@app.task(base=StageTask, name="reconnect.verify")
def run_verify() -> str:
    """One run of the verify stage."""
    return run("verify", verify)


@app.task(base=StageTask, name="reconnect.sync")
def run_sync() -> str:
    """One run of the sync stage."""
    return run("sync", read_hints_and_list)


async def read_hints_and_list(runtime: Runtime) -> str:
    """Read the members of due hints, then work on the sync of all users and members, if one is unfinished or due.

    Both share ``RUN_SECONDS``. If there is a sync to work on, hints get at most half of the time, so that the sync always has the other half.
    """
    ends_at = runtime.run_ends_at()
    share = runtime.settings.run_seconds / 2 if await is_wanted(runtime, await runtime.set_clock()) else 0.0
    hints_report = await hints(runtime, ends_at=ends_at - share)
    sync_report = await sync(runtime, ends_at=ends_at)
    return f"{hints_report}; list: {sync_report}" if sync_report else hints_report


@app.task(base=StageTask, name="reconnect.events")
def run_events() -> str:
    """One run of the events stage."""
    return run("events", events)


def check_overdue_sweeps(uptime: float) -> str | None:
    """The check of ``worker.overdue_sweeps``. It runs in a child of the worker, with the child's own connections."""
    with suppress(Exception):  # stages report a database that cannot be reached
        return process().run(lambda runtime: overdue(runtime.database, uptime))
    return None


@signals.worker_process_init.connect
def _open(**_: object) -> None:
    """Compile the SQL statements before a child's first task. Later, compiling would block the event loop during requests."""
    with suppress(WorkerError):  # the first task reports a key that cannot be read
        process().run(_compile_statements)


async def _compile_statements(runtime: Runtime) -> None:
    for store in (FetchStore, DeliverStore, VerifyStore, PauseStore, HintStore, SyncStore):
        runtime.database.store(store)
    if runtime.endpoint is not None:
        runtime.database.store(EventStore)


@signals.worker_process_shutdown.connect
def _close(**_: object) -> None:
    runtime = _processes.pop(os.getpid(), None)
    if runtime is not None:
        runtime.close()

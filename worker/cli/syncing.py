"""`sync`: users and members from MX."""

import asyncio
import gc
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import typer
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bar

from worker.cli.meaning import may_use_own_ids
from worker.cli.session import AsJson, aside, out, print_json, run
from worker.errors import UsageError, WorkerError
from worker.mx.identifiers import names_member, names_user
from worker.plain_text import shown_value
from worker.runtime import GC_AFTER, Runtime
from worker.stages.sync import SyncEnded, SyncResult, runs_here, sync_all
from worker.stages.sync_one import sync_member, sync_user
from worker.stages.sync_pass_base import Progress
from worker.store.pauses import MX, PauseStore
from worker.store.syncs.sync import FINISHED, LISTING, Busy, counts_in_words


def add_to(app: typer.Typer) -> None:
    app.command()(sync)


def sync(
    *,
    user: str = typer.Option(None, "--user", metavar="USR-…", help="The members of this user alone."),
    member: str = typer.Option(None, "--member", metavar="MBR-…", help="This member alone."),
    accept_shorter: bool = typer.Option(
        False, "--accept-shorter", help="Believe a list that is more than a tenth shorter than what is known."
    ),
    as_json: bool = AsJson,
) -> None:
    """Users and members from MX: what differs is written into users and members. A sync that was interrupted goes on where it was."""
    own_ids = may_use_own_ids()
    for guid, is_guid, prefix in ((user, names_user, "USR-"), (member, names_member, "MBR-")):
        if guid is not None and not is_guid(guid, own_ids=own_ids):
            raise UsageError(f"{shown_value(guid)} is no GUID of MX; it starts with {prefix}")

    async def job(runtime: Runtime) -> dict[str, Any]:
        await _not_paused(runtime)
        if member is not None:
            return {"state": FINISHED, "found": await sync_member(runtime, member, user)}
        if user is not None:
            return {"state": FINISHED, "found": await sync_user(runtime, user)}
        result = await _everything(runtime, accept_shorter=accept_shorter)
        return {"state": result.state, "found": result.found, "users_a_page": result.lowered_to}

    result = run(job)
    if as_json:
        print_json(result)
        return
    lowered = result.get("users_a_page")
    out.print(
        f"Synced: {counts_in_words(result['found'])}." + (f" MX serves {lowered} users a page." if lowered else "")
    )


async def _not_paused(runtime: Runtime) -> None:
    await runtime.set_clock()
    pause = await PauseStore(runtime.database).get(MX)
    if pause is not None:
        raise WorkerError(
            f"sync: MX is paused ({pause.reason}); a worker tries it again by itself, or end the pause with `reconnect resume mx`"
        )


async def _everything(runtime: Runtime, *, accept_shorter: bool) -> SyncResult:
    progress, before = Progress(), None
    gc.freeze()  # as in a worker's child: see worker/runtime.py
    gc.set_threshold(GC_AFTER, 20, 20)
    with _stops(runtime):
        while True:
            work = asyncio.create_task(sync_all(runtime, begin=True, accept_shorter=accept_shorter, progress=progress))
            try:
                await _watch(work, progress)
                result = work.result()
            except Busy as busy:
                if not await _may_go_on(runtime, busy, before):
                    raise
                before = busy
                continue
            finally:
                work.cancel()
                await asyncio.gather(work, return_exceptions=True)
            if result is None or result.state != FINISHED:
                raise SyncEnded(
                    f"sync: stopped; {progress.done} of {progress.total} are done, and the next `reconnect sync` goes on from there"
                )
            return result


async def _may_go_on(runtime: Runtime, busy: Busy, before: Busy | None) -> bool:
    """Wait a second for the lease of a process that may have been killed. ``False`` if that process is alive, or this one is to stop."""
    if runs_here(runtime, busy.worker) or (before is not None and busy.until != before.until):
        return False
    remaining = (busy.until - await runtime.set_clock()).total_seconds()
    if before is None:
        aside.print(f"{busy.worker} held the sync last. If it is gone, this goes on in {max(remaining, 0):.0f} s.")
    with suppress(TimeoutError):
        await asyncio.wait_for(runtime.stopping.wait(), 1)
        return False
    return True


async def _watch(work: "asyncio.Task[Any]", progress: Progress) -> None:
    """Show the progress of ``work`` until it ends."""
    columns = (
        TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TextColumn("left"), TimeRemainingColumn(),
    )  # fmt: skip
    with Bar(*columns, console=aside) as bar:
        task, phase = bar.add_task("listing users", total=None), LISTING
        while not work.done():
            if progress.phase != phase:
                phase = progress.phase
                bar.remove_task(task)
                task = bar.add_task("checking members that no list has", total=progress.total or None)
            bar.update(task, completed=progress.done, total=progress.total or None)
            await asyncio.wait({work}, timeout=0.2)
        bar.update(task, completed=progress.done, total=progress.total or None)


@contextmanager
def _stops(runtime: Runtime) -> Iterator[None]:
    """On SIGINT and SIGTERM the sync stores its results, and ends."""
    loop = asyncio.get_running_loop()
    signals = (signal.SIGINT, signal.SIGTERM)
    added = []
    for each in signals:
        with suppress(NotImplementedError, RuntimeError, ValueError):  # not in the main thread
            loop.add_signal_handler(each, runtime.stopping.set)
            added.append(each)
    try:
        yield
    finally:
        for each in added:
            loop.remove_signal_handler(each)

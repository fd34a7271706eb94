"""Every sender that waits until its dispatch is committed gets an answer, whatever happens to the commit."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from worker.errors import DatabaseUnavailable
from worker.stages.dispatch_log import DispatchLog, LeaseLost, NotRecorded


class Torn(BaseException):
    """An exception that is no ``Exception``."""


class ClaimedNotification:
    def __init__(self, number: int) -> None:
        self.id = number


class Store:
    """Writes once ``let`` is set, and raises what it is given."""

    def __init__(self, raises: BaseException | None = None) -> None:
        self.raises = raises
        self.let = asyncio.Event()
        self.groups: list[list[int]] = []

    async def mark_dispatched(self, claimed: Sequence[Any]) -> set[int]:
        self.groups.append([notification.id for notification in claimed])
        await self.let.wait()
        error, self.raises = self.raises, None
        if error is not None:
            raise error
        return {notification.id for notification in claimed if notification.id % 2 == 0}


async def _waiting(log: Any, *numbers: int) -> list[asyncio.Task[None]]:
    """Start senders that wait. On a new log, the first one is in the group that is being written, and the others in the next group."""
    senders = [asyncio.create_task(log.begin(ClaimedNotification(number))) for number in numbers]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return senders


async def _ends(senders: Sequence[asyncio.Task[None]]) -> list[Any]:
    async with asyncio.timeout(60):
        return list(await asyncio.gather(*senders, return_exceptions=True))


async def test_those_who_stand_there_together_are_recorded_together() -> None:
    store = Store()
    log = DispatchLog(store, full_size=1)  # type: ignore[arg-type]
    senders = [*await _waiting(log, 0), *await _waiting(log, 1, 2)]
    store.let.set()
    ends = await _ends(senders)
    assert (ends[0], type(ends[1]), ends[2]) == (None, LeaseLost, None)
    assert store.groups == [[0], [1, 2]]


async def test_those_who_come_one_after_the_other_are_recorded_together_once_they_are_enough(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("worker.stages.dispatch_log.GATHER", 3600.0)  # a full group must not wait for it
    store = Store()
    store.let.set()
    log = DispatchLog(store, full_size=3)  # type: ignore[arg-type]
    senders = [*await _waiting(log, 0), *await _waiting(log, 2), *await _waiting(log, 4)]
    assert await _ends(senders) == [None] * 3
    assert store.groups == [[0, 2, 4]]


async def test_for_senders_who_were_all_cut_short_nothing_is_written_any_more() -> None:
    store = Store()
    log = DispatchLog(store, full_size=1)  # type: ignore[arg-type]
    first, second = await _waiting(log, 0, 2)
    first.cancel()
    await asyncio.sleep(0)
    async with asyncio.timeout(60):
        await log.stop_if_nobody_waits()  # the second still waits, so the group is written
        assert len(asyncio.all_tasks()) == 3
        second.cancel()
        await asyncio.sleep(0)
        await log.stop_if_nobody_waits()
    assert store.groups == [[0, 2]]
    assert len(asyncio.all_tasks()) == 1


async def test_one_that_is_alone_is_recorded_by_itself() -> None:
    store = Store()
    store.let.set()
    log = DispatchLog(store, full_size=10)  # type: ignore[arg-type]
    assert await _ends(await _waiting(log, 2)) == [None]
    assert store.groups == [[2]]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (DatabaseUnavailable("database: away"), NotRecorded),
        (KeyError("a fault of ours"), RuntimeError),
        (ConnectionResetError(), RuntimeError),
        (MemoryError(), RuntimeError),
        (asyncio.CancelledError(), RuntimeError),
        (Torn(), RuntimeError),
    ],
)
async def test_whatever_is_raised_releases_everybody_who_waits(error: BaseException, expected: type) -> None:
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # ignore that the writer's task failed
    store = Store(raises=error)
    log = DispatchLog(store, full_size=1)  # type: ignore[arg-type]
    first, *behind = [*await _waiting(log, 0), *await _waiting(log, 2, 4)]
    store.let.set()
    (end,) = await _ends([first])
    assert type(end) is expected
    await _ends(behind)
    assert await _ends(await _waiting(log, 6)) == [None]  # the next sender is recorded as usual


async def test_a_writer_that_is_cancelled_releases_everybody_who_waits() -> None:
    store = Store()
    log = DispatchLog(store, full_size=1)  # type: ignore[arg-type]
    senders = [*await _waiting(log, 0), *await _waiting(log, 2, 4)]
    assert log._writer is not None
    log._writer.cancel()
    assert [type(end) for end in await _ends(senders)] == [RuntimeError] * 3


async def test_a_sender_that_is_cancelled_before_its_group_is_written_is_not_recorded() -> None:
    store = Store()
    log = DispatchLog(store, full_size=1)  # type: ignore[arg-type]
    senders = [*await _waiting(log, 0), *await _waiting(log, 2, 4)]
    senders[1].cancel()
    store.let.set()
    await _ends(senders)
    assert store.groups == [[0], [4]]

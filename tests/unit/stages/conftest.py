"""Sets the tick of a runner's loop, and checks that a run leaves nothing behind."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.unit.stages.desk import until
from worker.stages import runner


@pytest.fixture
async def nothing_is_left_behind() -> AsyncIterator[None]:
    """No task outlives its run, and no error is left for the event loop to log."""
    complaints: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context["message"]))
    before = asyncio.all_tasks()
    yield
    await until(lambda: asyncio.all_tasks() <= before | {asyncio.current_task()})
    assert not complaints


@pytest.fixture
def endless(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop's tick takes a minute: everything that happens sooner happens because something woke the loop."""
    monkeypatch.setattr(runner, "SETTLE_EVERY", 60.0)


@pytest.fixture
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop's tick is short, for tests that wait for it."""
    monkeypatch.setattr(runner, "SETTLE_EVERY", 0.01)

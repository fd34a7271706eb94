"""Reports about users who came back: how many, how fast, and after a message or without one; on both databases."""

from datetime import timedelta
from typing import Any

import pytest

from worker.store.queries.returns import Returns, ReturnStore


async def _episode(
    bench: Any, name: str, *, took: float, told: float | None = None, ago: float = 0, state: str = "reconnected"
) -> None:
    """A reconnection that ended ``ago`` days ago, was opened ``took`` hours before that, and told ``told`` hours before that."""
    closed = bench.runtime.clock.now() - timedelta(days=ago)
    await bench.sql(
        "INSERT INTO reconnections (member_guid, user_guid, state, reason, broken_since, opened_at, notified_at, closed_at) "
        "VALUES (:m, :m, :s, 'connection_status', :o, :o, :n, :c)",
        m=name,
        s=state,
        o=bench.stored(closed - timedelta(hours=took)),
        n=bench.stored(closed - timedelta(hours=told)) if told is not None else None,
        c=bench.stored(closed),
    )


async def test_where_nobody_came_back_there_is_nothing_to_tell(bench_for: Any) -> None:
    bench = await bench_for()
    await _episode(bench, "a", took=1, told=0.5, state="exhausted")
    await _episode(bench, "b", took=1, told=0.5, ago=31)
    await _episode(bench, "c", took=1, told=0.5)
    await bench.sql("UPDATE reconnections SET reason = 'expires_soon' WHERE member_guid = 'c'")
    assert await ReturnStore(bench.runtime.database).lately(bench.runtime.clock.now()) == Returns(
        days=30, reconnected=0, after_a_message=0, median_seconds=None, median_seconds_after_message=None
    )


@pytest.mark.parametrize(
    ("took", "hours"), [([5], 5), ([1, 2], 1.5), ([9, 1, 2], 2), ([4, 100, 2, 3], 3.5), ([1, 1, 1, 50, 60], 1)]
)
async def test_the_median_is_that_of_the_one_in_the_middle(bench_for: Any, took: list[float], hours: float) -> None:
    bench = await bench_for()
    for number, each in enumerate(took):
        await _episode(bench, f"m{number}", took=each, ago=number)
    found = await ReturnStore(bench.runtime.database).lately(bench.runtime.clock.now())
    assert found.reconnected == len(took)
    assert found.median_seconds == pytest.approx(hours * 3_600, abs=0.1)
    assert (found.after_a_message, found.median_seconds_after_message) == (0, None)


async def test_who_was_told_before_came_back_after_a_message(bench_for: Any) -> None:
    bench = await bench_for()
    await _episode(bench, "a", took=30, told=2)
    await _episode(bench, "b", took=50, told=4)
    await _episode(bench, "c", took=1)
    found = await ReturnStore(bench.runtime.database).lately(bench.runtime.clock.now())
    assert (found.reconnected, found.after_a_message) == (3, 2)
    assert found.median_seconds == pytest.approx(30 * 3_600, abs=0.1)
    assert found.median_seconds_after_message == pytest.approx(3 * 3_600, abs=0.1)

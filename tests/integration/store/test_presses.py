"""Reports about presses: how many, how many failed, and the time until the member was back; on both databases."""

from datetime import timedelta
from typing import Any

import pytest

from tests.integration.stages.links import linked
from worker.cli.explain import explanation
from worker.cli.reporting import links_pressed
from worker.cli.status import overview
from worker.store.queries.presses import PressStore

HOUR = timedelta(hours=1)


async def _pressed(
    bench: Any, name: str, *outcomes: str | None, ago: timedelta = HOUR, back_after: float | None = None
) -> None:
    _, id_ = await linked(bench, name)
    now = bench.runtime.clock.now()
    link = await bench.one("SELECT max(id) FROM links")
    for number, outcome in enumerate(outcomes):
        await bench.sql(
            "INSERT INTO clicks (link_id, reconnection_id, nonce_hash, clicked_at, outcome) VALUES (:l, :r, :h, :c, :o)",
            l=link, r=id_, h=str(number), c=bench.stored(now - ago), o=outcome,
        )  # fmt: skip
    await bench.sql("UPDATE reconnections SET clicked_at = :c WHERE id = :r", c=bench.stored(now - ago), r=id_)
    if back_after is not None:
        await bench.sql("UPDATE reconnections SET state = 'reconnected', closed_at = :c WHERE id = :r",
                        c=bench.stored(now - ago + timedelta(seconds=back_after)), r=id_)  # fmt: skip


async def test_presses_are_counted_by_their_outcome_and_the_time_to_the_return_is_the_median(bench_for: Any) -> None:
    bench = await bench_for()
    nothing = await PressStore(bench.runtime.database).lately(bench.runtime.clock.now())
    assert (nothing.clicks, nothing.median_seconds_to_return, links_pressed(nothing)) == (0, None, "")
    await _pressed(bench, "a", "window", "http_503", back_after=60)
    await _pressed(bench, "b", "stored_window", back_after=100)
    await _pressed(bench, "c", "http_503", "timeout", None)
    await _pressed(bench, "old", "timeout", ago=timedelta(days=31), back_after=5)
    found = await PressStore(bench.runtime.database).lately(bench.runtime.clock.now())
    assert (found.links_opened, found.clicks, found.failed) == (3, 6, {"http_503": 2, "timeout": 1})
    assert found.median_seconds_to_return == pytest.approx(80, abs=0.01)
    assert links_pressed(found) == (
        "In the last 30 days 3 links were opened by their button; half of who came back after that did so within 1 min 20 s. "
        "3 of 6 clicks failed: http_503 2, timeout 1."
    )


async def test_status_and_explain_know_of_presses(bench_for: Any) -> None:
    bench = await bench_for()
    await _pressed(bench, "a", "http_503")
    assert (await overview(bench.runtime))["clicks"]["outcomes"] == {"http_503": 1}
    (told,) = (await explanation(bench.runtime, "MBR-a"))["reconnections"]
    assert "its link's button was pressed: http_503" in [text for _, text in told["history"]]

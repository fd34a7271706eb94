"""`status` counts small numbers of rows exactly. It estimates large ones from a sample and marks them as estimates."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import insert, text

from tests.integration.store.histories import NOW, Histories
from worker.cli.status import overview
from worker.store.queries import sampling, standing
from worker.store.queries.standing import StandingStore
from worker.store.queries.unreadable import UnreadableStore
from worker.store.sql.tables import users

ON_POSTGRESQL = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


@ON_POSTGRESQL
async def test_what_is_little_is_counted_and_what_is_much_is_an_estimate_that_says_so(
    bench_for: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (sampling, standing):
        monkeypatch.setattr(module, "EXACT", 50)
    monkeypatch.setattr(sampling, "SAMPLE", 4000)
    bench = await bench_for()
    told = Histories()
    for number in range(8000):
        told.reconnection(f"n{number}", 20, state="notified", outcome="window")
    later = {"next_attempt_at": NOW + timedelta(hours=1)}
    for number in range(7):
        told.reconnection(f"d{number}", 1, state="due", **(later if number < 4 else {}))
    ready = [told.reconnection(f"r{number}", 1, state="ready", outcome="window") for number in range(3)]
    for number, id_ in enumerate(ready):
        told.message(f"r{number}", [id_], 0.1, state="pending")
    for number in range(30):
        told.reconnection(f"e{number}", 9, 0.1)
    await told.write(bench.runtime.database)
    async with bench.runtime.database.engine.begin() as connection:
        await connection.execute(
            insert(users), [{"user_guid": f"USR-{n}", "timezone": ["PST", "UTC"][n % 2]} for n in range(8000)]
        )
        await connection.execute(text("ANALYZE"))
    found = await StandingStore(bench.runtime.database).read(NOW)
    counts: dict[str, int] = {}
    for count in found.reconnections:
        counts[count.state] = counts.get(count.state, 0) + count.count
    assert 5000 < counts.pop("notified") < 11000
    assert counts == {"due": 7, "ready": 3, "reconnected": 30}
    assert found.estimated == ["reconnections.notified"]
    assert (found.backlog["due_now"], found.backlog["due_later"], found.backlog["to_deliver_now"]) == (3, 4, 3)
    (zones,) = await UnreadableStore(bench.runtime.database).counts()
    assert 2000 < zones.count < 6500
    assert "about" in str(zones)
    shown = await overview(bench.runtime)
    assert shown["estimated"] == ["reconnections.notified"]


async def test_little_is_counted_to_the_last(bench_for: Any) -> None:
    bench = await bench_for()
    told = Histories()
    for number in range(40):
        told.reconnection(f"n{number}", 20, state="notified", outcome="window")
    await told.write(bench.runtime.database)
    found = await StandingStore(bench.runtime.database).read(NOW)
    assert [(count.state, count.count, count.about) for count in found.reconnections] == [("notified", 40, False)]
    assert found.estimated == []

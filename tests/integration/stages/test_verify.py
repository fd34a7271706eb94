"""Checks of members: what counts as one, and what does not."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event, insert, text

from worker.mx.answers import MemberAnswer, RefusedClient, RetryLater
from worker.mx.retrying import NOT_ASKED
from worker.policy.mx_failures import RECHECK_AFTER
from worker.stages.sweep import sweep
from worker.stages.verify import verify
from worker.store.reconnections.checks import MemberChecks
from worker.store.sql.tables import reconnections


class Answering:
    """MX without a network: the same answer to every request."""

    def __init__(self, answer: MemberAnswer) -> None:
        self.answer = answer

    async def read_member(self, _user: str, _member: str) -> MemberAnswer:
        return self.answer

    async def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("answer", "checks", "wait"),
    [
        (RetryLater(code=NOT_ASKED, upstream=False), 9, RECHECK_AFTER),
        (RefusedClient(code="http_401"), 9, RECHECK_AFTER),
        (RetryLater(code="http_429", after=30.0), 9, RECHECK_AFTER),
        (RetryLater(code="http_500"), 10, timedelta(days=1)),
    ],
)
async def test_only_a_check_that_was_made_makes_the_next_interval_longer(
    bench_for: Any, answer: MemberAnswer, checks: int, wait: timedelta
) -> None:
    bench = await bench_for()
    await bench.member("a", connection_status="DENIED")
    await sweep(bench.runtime)
    await bench.sql(
        "UPDATE reconnections SET state = 'notified', checks = 9, next_check_at = '2020-01-01 00:00:00', "
        "next_attempt_at = '2099-01-01 00:00:00'"
    )
    await bench.runtime.mx.close()
    bench.runtime.mx = Answering(answer)
    await verify(bench.runtime)
    row = (await bench.sql("SELECT checks, outcome FROM reconnections"))[0]
    assert tuple(row) == (checks, answer.code)  # type: ignore[union-attr]
    now = bench.runtime.clock.now()
    later = await bench.one(
        "SELECT count(*) FROM reconnections WHERE next_check_at > :at", at=bench.stored(now + wait / 2)
    )
    too_late = await bench.one(
        "SELECT count(*) FROM reconnections WHERE next_check_at > :at", at=bench.stored(now + wait)
    )
    assert (later, too_late) == (1, 0)


@pytest.mark.parametrize("is_analyzed", [False, True])
async def test_what_is_to_be_checked_is_found_by_its_index_among_all_that_is_due(
    bench_for: Any, is_analyzed: bool
) -> None:
    bench = await bench_for()
    now = bench.runtime.clock.now()
    many = [
        {"member_guid": f"MBR-{n}", "user_guid": f"USR-{n}", "state": "due" if n % 3 else "notified",
         "reason": "connection_status", "broken_since": now, "opened_at": now, "next_attempt_at": now,
         "next_check_at": None if n % 3 else now}
        for n in range(15_000)
    ]  # fmt: skip
    taken = MemberChecks(bench.runtime.database.rows)._take
    async with bench.runtime.database.engine.begin() as connection:
        await connection.execute(insert(reconnections), many)
        if is_analyzed:
            await connection.execute(text("ANALYZE"))
        ran: list[Any] = []
        event.listen(connection.sync_connection, "before_cursor_execute", lambda *given: ran.append(given[2:4]))
        await connection.execute(taken, {"n": 200, "now": now, "again_at": now + RECHECK_AFTER})
        statement, parameters = ran[0]
        how = "EXPLAIN QUERY PLAN" if bench.runtime.database.rows.is_sqlite else "EXPLAIN"
        found = await connection.exec_driver_sql(f"{how} {statement}", parameters)
        plan = "\n".join(" ".join(map(str, line)) for line in found)
    assert "ix_reconnections_check" in plan, plan

"""SQL of the runbook does what the runbook says of it."""

import re
from datetime import timedelta
from typing import Any

import pytest

from tests.pages import RUNBOOK
from worker.stages.sweep import sweep
from worker.store.sql.moments import NEVER

pytestmark = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


def _statement(begins: str) -> str:
    """The statement of the runbook that begins so, up to its semicolon."""
    match = re.search(rf"{re.escape(begins)}.*?;", RUNBOOK.text, re.DOTALL)
    assert match, begins
    return re.sub(r"'\d{4}-\d\d-\d\d \d\d:\d\d\+00'", ":since", match[0].rstrip(";"))


async def test_members_that_a_wrong_setting_closed_as_gone_are_opened_by_the_next_sweep(bench_for: Any) -> None:
    bench = await bench_for()
    for name in "abc":
        await bench.member(name, connection_status="DENIED")
    await sweep(bench.runtime)
    now = bench.runtime.clock.now()
    closed = "UPDATE reconnections SET state = 'gone', outcome = 'not_found', closed_at = :at, reopen_at = :never WHERE member_guid = :m"
    for name, days in (("a", 0), ("b", 0), ("c", 2)):
        await bench.sql(closed, at=now - timedelta(days=days), never=NEVER, m=f"MBR-{name}")
    await sweep(bench.runtime)
    await bench.sql(_statement("UPDATE reconnections SET reopen_at ="), since=now - timedelta(days=1))
    await bench.sql(
        "UPDATE reconnections SET reopen_at = reopen_at - INTERVAL '1 minute' WHERE reopen_at < :never", never=NEVER
    )
    report = await sweep(bench.runtime)
    assert report is not None
    assert report.opened == 2
    rows = await bench.sql("SELECT member_guid FROM reconnections WHERE state = 'due' ORDER BY 1")
    assert [row[0] for row in rows] == ["MBR-a", "MBR-b"]

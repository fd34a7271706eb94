"""Reach: the share of first clicks that lead to a live consent page, also after scanners opened the mail, and days after the mail.

`make reach` prints two tables: with our links, and with MX's own. The worker, the web process, the bank and the mail server are real
processes. To let time pass, the stored moments and the bank's links are moved back.
"""

import asyncio
import contextlib
import os
import sqlite3
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import aiohttp
import pytest
from rich.console import Console

from worker.sandbox.customers import Customers
from worker.sandbox.demo.reach import Reach
from worker.sandbox.scanning import KINDS, ScanRule, kind_for
from worker.store.sandbox_time import set_back
from worker.store.sql.database import Database, open_engine

CUSTOMERS = int(os.environ.get("REACH_CUSTOMERS", "60"))
#: Each kind of scanner reads the mails of a fifth of the addresses. A fifth has no scanner.
SCANNERS = [ScanRule(kind=kind, share=0.2) for kind in KINDS]
#: The time between mail and click. A third of the customers clicks at each of these moments.
MOMENTS = {
    "after minutes": timedelta(minutes=10),
    "after hours": timedelta(hours=6),
    "after days": timedelta(days=2, hours=20),
}
#: How long the bank's links work (seconds): twice URI_MAX_AGE. MX does not document it.
LINK_SECONDS = 1800
#: One customer in ten double-clicks.
DOUBLE = 10


@pytest.mark.parametrize("ours", [True, False], ids=["our links", "MX's own links"])
def test_first_clicks_reach_a_live_consent_page_whoever_opened_the_mail_before(
    machine: Any, acceptance: Any, settings_for: Callable[..., Any], ours: bool
) -> None:
    rows, csv = acceptance.cast_of(CUSTOMERS)
    assert machine("migrate").code == 0
    (machine.folder / "members.csv").write_text(csv)
    machine.start_sandbox(rows, "--aggregation-seconds", "0")
    machine.control(scan=[rule.model_dump() for rule in SCANNERS], link_seconds=LINK_SECONDS)
    if ours:
        port = acceptance.free_port()
        machine.environment |= {"PUBLIC_BASE_URL": f"http://127.0.0.1:{port}", "WEB_LISTEN": f"127.0.0.1:{port}"}
        machine.start("web", sys.executable, "-m", "worker", "web")
        acceptance.wait_until(lambda: acceptance.get_json(f"http://127.0.0.1:{port}/readyz"), what="the web process")
    machine.start_worker()
    imported = machine("import", "members.csv")
    assert imported.code == 0, imported.err
    ran = machine("sweep", "--wait", timeout=120)
    assert ran.code == 0, ran.err
    assert machine.mails()["count"] == CUSTOMERS
    # The ledger of MX is no measure here: on a busy machine an answer may be late, and fetch asks again.
    with contextlib.closing(sqlite3.connect(machine.folder / "reconnect.db", timeout=30)) as stored:
        (for_clicks,) = stored.execute("SELECT count(*) FROM windows WHERE epoch IS NULL").fetchone()
    assert for_clicks == 0, "what scanners did made MX mint nothing"
    scans = acceptance.get_json(f"{machine.sandbox['base_url']}/sandbox/scans.json")
    assert all(scans[kind]["mails"] > CUSTOMERS / 10 for kind in KINDS)
    settings = settings_for(database_url=machine.environment["DATABASE_URL"])
    reach = asyncio.run(_come(machine, Database(open_engine(settings)), ours=ours))
    title = f"With {'our links' if ours else 'the links of MX itself'}: first clicks that reached a live consent page"
    console = Console(width=100)
    console.print()
    console.print(reach.table(title))
    share = reach.reached / reach.clicks
    console.print(f"{reach.reached} of {reach.clicks}: {share:.1%}")
    assert reach.clicks == CUSTOMERS
    if ours:
        assert share >= 0.99, reach.rows()
    else:
        assert 0.01 < share < 0.15, reach.rows()


async def _come(machine: Any, database: Database, *, ours: bool) -> Reach:
    """Let a third of the customers click at each moment; return where their first clicks led."""
    reach, passed = Reach(moments=list(MOMENTS)), timedelta(0)
    async with aiohttp.ClientSession() as session:
        customers = Customers(session, machine.sandbox["base_url"])
        limit = asyncio.Semaphore(10)

        async def one(number: int, moment: str) -> None:
            email = f"person{number:06}@mail.example"
            async with limit:
                (link,) = await customers.read_mail(email, 1)
                assert ("/r/" in link) is ours
                (saw,) = await customers.click(email, link, twice=number % DOUBLE == 0)
            reach.count(kind_for(SCANNERS, email), moment, saw)

        for place, (moment, at) in enumerate(MOMENTS.items()):
            await set_back(database, at - passed)
            await customers.control(link_age=(at - passed).total_seconds())
            passed = at
            await asyncio.gather(*(one(number, moment) for number in range(place, CUSTOMERS, len(MOMENTS))))
    await database.close()
    return reach

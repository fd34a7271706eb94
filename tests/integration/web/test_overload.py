"""More requests than a process can serve: some are turned away at once, and those under way are served."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest
from sqlalchemy import text
from structlog.testing import capture_logs

from tests.integration.stages.links import linked
from tests.integration.web.conftest import Html
from worker.web.overload import MOST, MOST_FOR_PROGRAMS, Overload, TurnedAway

KEY = {"Authorization": "Bearer " + "k" * 40}


async def _until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline, f"not within 10 s: {what}"
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_who_comes_when_all_is_full_is_told_to_come_back_and_the_others_are_served(site_for: Any) -> None:
    site = await site_for(api_keys="k" * 40)
    token, _ = await linked(site.bench)
    database = site.bench.runtime.database

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def ask(method: str, path: str, **options: Any) -> tuple[int, str]:
            async with session.request(method, site.base + path, allow_redirects=False, **options) as response:
                return response.status, await response.text()

        async with database.engine.connect() as other:
            await other.execute(text("LOCK TABLE links"))
            # The limit also holds for a burst.
            first = [asyncio.create_task(ask("GET", f"/r/{token}")) for _ in range(MOST + 20)]
            await _until(lambda: sum(task.done() for task in first) == 20, "20 turned away")
            assert database.transactions_under_way == MOST
            with capture_logs() as logged:
                late = [await ask("GET", f"/r/{token}"), await ask("POST", f"/r/{token}"), await ask("GET", "/u/x")]
                late.append(await ask("GET", "/api/v1/users/USR-ann/reconnections", headers=KEY))
            assert [status for status, _ in late] == [503] * 4
            assert late[3][1].startswith("{")
            page = Html(late[0][1])
            page.check()
            assert page.buttons == ["Try again"]
            events = [line["event"] for line in logged]
            assert "web_overloaded" not in events, "one line in ten seconds, and the burst had it"
            # Requests that need no database are served. An opt-out is not turned away: a mailbox provider may not post it again.
            needless = [await ask("GET", path) for path in ("/healthz", "/done?status=success", "/nothing")]
            assert [status for status, _ in needless] == [200, 200, 404]
            opt_out = asyncio.create_task(ask("POST", "/u/x", data={"List-Unsubscribe": "One-Click"}))
            await _until(lambda: database.transactions_under_way > MOST, "the opt-out in hand")
            assert not opt_out.done()
            await other.rollback()
        served = Counter(status for status, _ in await asyncio.gather(*first))
        assert served == {200: MOST, 503: 20}
        assert (await opt_out)[0] == 404
        assert (await ask("GET", f"/r/{token}"))[0] == 200
    assert database.transactions_under_way == 0


async def test_the_log_says_how_many_were_turned_away() -> None:
    class Busy:
        transactions_under_way = MOST

    now = 100.0
    overload = Overload(Busy(), clock=lambda: now)  # type: ignore[arg-type]
    with capture_logs() as logged:
        for _ in range(5):
            with pytest.raises(TurnedAway):
                overload.check()
        Busy.transactions_under_way, now = MOST_FOR_PROGRAMS, 111.0
        overload.check()  # customers are served again; programs are not
        with pytest.raises(TurnedAway):
            overload.check(limit=MOST_FOR_PROGRAMS)
    assert [line["turned_away"] for line in logged] == [1, 4]

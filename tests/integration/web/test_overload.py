"""More requests than a process can serve: some are told to come back at once, and those that are in hand are served."""

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
from worker.web.overload import MOST

pytestmark = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


async def _until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline, f"not within 10 s: {what}"
        await asyncio.sleep(0.01)


async def test_who_comes_when_all_is_full_is_told_to_come_back_and_the_others_are_served(site_for: Any) -> None:
    site = await site_for(mx_webhook_auth="Bearer " + "k" * 32)
    token, _ = await linked(site.bench)
    database = site.bench.runtime.database

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def ask(method: str, path: str, **options: Any) -> tuple[int, str]:
            async with session.request(method, site.base + path, allow_redirects=False, **options) as response:
                return response.status, await response.text()

        async with database.engine.connect() as other:
            await other.execute(text("LOCK TABLE links"))
            first = [asyncio.create_task(ask("GET", f"/r/{token}")) for _ in range(MOST)]
            await _until(lambda: database.in_hand >= MOST, "all requests in hand")
            with capture_logs() as logged:
                late = [await ask("GET", f"/r/{token}"), await ask("POST", f"/r/{token}"), await ask("GET", "/u/x")]
            assert [status for status, _ in late] == [503] * 3
            page = Html(late[0][1])
            page.check()
            assert page.buttons == ["Try again"]
            assert [line["sent_back"] for line in logged if line["event"] == "web_overloaded"] == [1]
            # These are not asked to come back: whoever watches us, and a mailbox provider, which may not.
            assert (await ask("GET", "/healthz"))[0] == 200
            opt_out = asyncio.create_task(ask("POST", "/u/x", data={"List-Unsubscribe": "One-Click"}))
            await _until(lambda: database.in_hand > MOST, "the opt-out in hand")
            assert not any(task.done() for task in [*first, opt_out])
            await other.rollback()
        served = Counter(status for status, _ in await asyncio.gather(*first))
        assert served == {200: MOST}
        assert (await opt_out)[0] == 404
        assert (await ask("GET", f"/r/{token}"))[0] == 200
    assert database.in_hand == 0

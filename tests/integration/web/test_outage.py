"""The database and Redis stop while a web process runs, and the database starts again."""

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.faults.servers import OwnPostgres, OwnValkey
from tests.integration.stages.links import linked
from tests.integration.web.conftest import Html
from worker.runtime import Runtime
from worker.store.sql import schema
from worker.web.serve import _database


@pytest.fixture
def own_postgres() -> Iterator[OwnPostgres]:
    """A PostgreSQL server for this test alone."""
    server = OwnPostgres()
    yield server
    server.close()


@pytest.fixture
def database_url(own_postgres: OwnPostgres, settings_for: Any) -> str:
    """The URL of that server's database, migrated."""
    schema.migrate(settings_for(database_url=own_postgres.url))
    return own_postgres.url


async def test_a_database_that_is_away_costs_a_page_that_says_try_again(
    site_for: Any, bench_for: Any, own_postgres: OwnPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    init = Runtime.__init__

    def as_served(self: Runtime, settings: Any, **options: Any) -> None:
        init(self, settings, **options, database=_database(settings))

    monkeypatch.setattr(Runtime, "__init__", as_served)
    broker = OwnValkey()
    try:
        site = await site_for(redis_url=broker.url)
        token, _ = await linked(site.bench)
        assert (await site.page(f"/r/{token}")).buttons == ["Reconnect Bank ann"]
        await asyncio.to_thread(own_postgres.stop, "immediate")
        broker.kill()
        began = time.monotonic()
        for method, path in (
            ("GET", f"/r/{token}"),
            ("POST", f"/r/{token}"),
            ("GET", f"/u/{token}"),
            ("POST", f"/u/{token}"),
        ):
            response, text = await site.ask(method, path, headers={"X-Forwarded-For": "203.0.113.7"})
            page = Html(text)
            page.check()
            assert response.status == 503
            if method == "GET" or path.startswith("/u"):
                assert response.headers["Retry-After"] == "30"
                assert page.buttons == ["Try again"]
        assert time.monotonic() - began < 60
        assert (await site.ask("GET", "/healthz"))[0].status == 200
        assert (await site.ask("GET", "/readyz"))[0].status == 503
        await asyncio.to_thread(own_postgres.start)
        assert (await site.page(f"/r/{token}")).buttons == ["Reconnect Bank ann"]
        # An opt-out waits longer for the database than a page, because a mailbox provider may not post it again.
        await asyncio.to_thread(own_postgres.stop, "immediate")
        data = {"List-Unsubscribe": "One-Click"}
        opt_out = asyncio.create_task(site.ask("POST", f"/u/{token}", data=data))
        for _ in range(2):
            assert (await site.ask("GET", f"/r/{token}"))[0].status == 503
        assert not opt_out.done()
        await asyncio.to_thread(own_postgres.start)
        assert (await opt_out)[0].status == 200
        assert await site.bench.one("SELECT count(*) FROM users WHERE opted_out_at IS NOT NULL") == 1
    finally:
        broker.kill()

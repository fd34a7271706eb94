"""How many SQL statements a page and a press take: each is a round trip, and together they cost most of the CPU time."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from random import SystemRandom
from typing import Any

import psycopg
import pytest
from sqlalchemy import event

from tests.integration.stages.links import linked
from worker.policy.links import new_token
from worker.stages.click import LeadsTo, click
from worker.stages.link_page import page_of


@contextmanager
def statements(bench: Any) -> Iterator[list[str]]:
    """The statements that are executed, with or without SQLAlchemy. BEGIN counts, COMMIT does not."""
    sent: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        if bench.runtime.database.rows.is_sqlite:
            engine = bench.runtime.database.engine.sync_engine
            event.listen(engine, "before_cursor_execute", lambda _connection, _cursor, text, *_: sent.append(text))
        else:
            genuine = psycopg.AsyncCursor.execute

            async def execute(self: Any, text: Any, *args: Any, **more: Any) -> Any:
                sent.append(text)
                return await genuine(self, text, *args, **more)

            patch.setattr(psycopg.AsyncCursor, "execute", execute)
        yield sent


async def test_a_page_and_a_press_take_few_statements(bench_for: Any, sandbox_for: Any) -> None:
    async with sandbox_for({"ann": ["ok"]}) as sandbox:
        bench = await bench_for(**sandbox.settings)
        token, id_ = await linked(bench)
        await page_of(bench.runtime, token)  # SQLAlchemy executes statements of its own on a new connection
        is_sqlite = bench.runtime.database.rows.is_sqlite
        with statements(bench) as sent:
            assert await page_of(bench.runtime, token)
            page = [*sent]
            form = new_token(SystemRandom())
            assert isinstance(await click(bench.runtime, token, reconnection_id=id_, nonce=form), LeadsTo)
        press = sent[len(page) :]
        # One for the link and one for its banks; on SQLite also a BEGIN.
        assert len(page) == (3 if is_sqlite else 2), page
        # PostgreSQL: one statement before the request to MX and one after it. SQLite needs several for each, and BEGINs.
        assert len(press) == (11 if is_sqlite else 2), press


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)  # SQLite has no server
async def test_a_page_is_read_also_if_every_connection_to_the_database_was_cut(bench_for: Any) -> None:
    bench = await bench_for()
    token, _ = await linked(bench)
    pages = await asyncio.gather(*(page_of(bench.runtime, token) for _ in range(5)))
    theirs = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    assert (await bench.sql(f"SELECT count(pg_terminate_backend(pid)) {theirs}"))[0][0] >= 2
    assert await asyncio.gather(*(page_of(bench.runtime, token) for _ in range(5))) == pages

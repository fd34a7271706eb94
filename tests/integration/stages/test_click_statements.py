"""How many statements a customer waits for. Each costs a round trip, and most of the CPU that a page or a press takes."""

from collections.abc import Iterator
from contextlib import contextmanager
from random import SystemRandom
from typing import Any

from sqlalchemy import event

from tests.integration.stages.links import linked
from worker.policy.links import new_token
from worker.stages.click import LeadsTo, click
from worker.stages.link_page import page_of


@contextmanager
def statements(bench: Any) -> Iterator[list[str]]:
    engine = bench.runtime.database.engine
    sent: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        sent.append(statement)

    event.listen(engine.sync_engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(engine.sync_engine, "before_cursor_execute", note)


async def test_a_page_and_a_press_take_few_statements(bench_for: Any, sandbox_for: Any) -> None:
    async with sandbox_for({"ann": ["ok"]}) as sandbox:
        bench = await bench_for(**sandbox.settings)
        token, id_ = await linked(bench)
        is_sqlite = bench.runtime.database.rows.is_sqlite
        with statements(bench) as page:
            assert await page_of(bench.runtime, token)
        with statements(bench) as press:
            form = new_token(SystemRandom())
            assert isinstance(await click(bench.runtime, token, reconnection_id=id_, nonce=form), LeadsTo)
        # The link and its banks; on SQLite a BEGIN before them.
        assert len(page) == (3 if is_sqlite else 2), page
        # BEGIN, the link, the bank, its reconnection, the click. Then the end: one statement, on SQLite BEGIN and four.
        assert len(press) == (10 if is_sqlite else 6), press

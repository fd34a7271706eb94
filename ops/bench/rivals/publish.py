"""Fills a rival's queue with one task for each broken member: ``python -m ops.bench.rivals.publish celery|arq|taskiq COUNT``.

Prints the seconds that it took.
"""

import asyncio
import os
import sys
import time
from collections.abc import Sequence

import psycopg

from ops.bench.rivals.task import DATABASE_URL

Guids = Sequence[tuple[str, str]]


def _celery(guids: Guids) -> None:
    from ops.bench.rivals.celery_app import app, fetch

    with app.producer_pool.acquire(block=True) as producer:
        for pair in guids:
            fetch.apply_async(args=pair, producer=producer)


def _arq(guids: Guids) -> None:
    from arq import create_pool
    from arq.connections import RedisSettings

    async def fill() -> None:
        pool = await create_pool(RedisSettings.from_dsn(os.environ["REDIS_URL"]))
        for start in range(0, len(guids), 50):
            await asyncio.gather(*(pool.enqueue_job("fetch", *pair) for pair in guids[start : start + 50]))

    asyncio.run(fill())


def _taskiq(guids: Guids) -> None:
    from ops.bench.rivals.taskiq_app import broker, fetch

    async def fill() -> None:
        await broker.startup()
        for start in range(0, len(guids), 50):
            await asyncio.gather(*(fetch.kiq(*pair) for pair in guids[start : start + 50]))
        await broker.shutdown()

    asyncio.run(fill())


if __name__ == "__main__":
    kind, count = sys.argv[1], int(sys.argv[2])
    with psycopg.connect(DATABASE_URL) as connection:
        query = "SELECT user_guid, member_guid FROM members WHERE connection_status = 'DENIED' LIMIT %s"
        rows = connection.execute(query, (count,)).fetchall()
    began = time.monotonic()
    {"celery": _celery, "arq": _arq, "taskiq": _taskiq}[kind](rows)
    print(time.monotonic() - began)

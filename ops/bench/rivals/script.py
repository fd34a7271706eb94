"""A plain asyncio script: reads the broken members, asks for all of them concurrently, and commits each answer.

``python -m ops.bench.rivals.script COUNT``
"""

import asyncio
import os
import sys

import aiohttp
import psycopg

from ops.bench.rivals.task import DATABASE_URL, HEADERS, AsyncStore, url_of

_IN_FLIGHT = int(os.environ.get("BENCH_IN_FLIGHT", "200"))


async def main(count: int) -> None:
    """Fetch and store ``count`` members."""
    async with await psycopg.AsyncConnection.connect(DATABASE_URL) as connection:
        query = "SELECT user_guid, member_guid FROM members WHERE connection_status = 'DENIED' LIMIT %s"
        todo = iter(await (await connection.execute(query, (count,))).fetchall())
    connector = aiohttp.TCPConnector(limit=_IN_FLIGHT)
    async with AsyncStore().opened() as store, aiohttp.ClientSession(connector=connector, headers=HEADERS) as session:

        async def go_on() -> None:
            for user_guid, member_guid in todo:
                async with session.get(url_of(user_guid, member_guid)) as response:
                    response.raise_for_status()
                    body = await response.read()
                await store.store(member_guid, body)

        await asyncio.gather(*(go_on() for _ in range(_IN_FLIGHT)))


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
